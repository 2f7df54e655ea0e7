"""Small files that are never half-written, and what is read back from them. Imports nothing heavy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from utils import ROOT


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None if there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_rows(path: Path, appended: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file that this project wrote; utils/reading.py reads those of users.

    appended: the file grows line by line, as log.jsonl. It may not have been begun, and who was stopped while writing left half a
    line: neither is an error. Raises OSError if there is no file, ValueError naming it and the line that is damaged.
    """
    if appended and not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace" if appended else "strict")
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # at newlines only: a text may hold U+2028
        try:
            rows += [json.loads(line)] if line else []
        except ValueError as error:
            if not appended:
                raise ValueError(f"{path}, line {number}: damaged ({error}); make the file again") from error
    return rows


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that the file is either the old or the new one."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text so that the file is either the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    # A generation may hold half of a surrogate pair, which UTF-8 has no bytes for.
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Writes JSON lines so that the file is either the old or the new one."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Writes the table so that the file is either the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    table.to_parquet(partial, index=False)
    partial.replace(path)


@contextmanager
def whole_folder(out: Path, size: int = 0) -> Iterator[Path]:
    """Yields a folder beside `out` to write `size` bytes into. It becomes `out` when the block ends, and is deleted if it fails.

    What an interrupted attempt left is deleted first. Raises ValueError if the disk has no room.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        free = shutil.disk_usage(partial).free
        if free < size:
            raise ValueError(
                f"out={out} needs {size / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free; make room or choose another disk"
            )
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def resolve(path: str) -> Path:
    """A path as the user wrote it, or relative to the project's root if that is where it exists."""
    plain = Path(path).expanduser()
    return plain if plain.exists() or not (ROOT / path).exists() else ROOT / path
