"""Small files that are never half-written, and what is read back from them. Imports nothing heavy."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from utils import ROOT

if TYPE_CHECKING:
    import pandas as pd

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)
# How torch words it when a file cannot be written or read to its end; other runtime errors are none of a disk's.
OF_THE_DISK = re.compile(r"inline_container|PytorchStream|iostream error|unexpected pos")


class StorageError(ValueError):
    """A file or folder cannot be read or written; the message names it, says why and what to do."""


def told(error: OSError, path: Path | str | None = None) -> str:
    """One sentence about a file that could not be read or written. path: which, where the error itself does not know."""
    where = error.filename or path
    if where is None and error.errno is None:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if error.errno in FULL:
        todo = "make room on the disk, or choose another one"
    elif error.errno in LOCKED:
        todo = "change its rights, or choose another folder"
    elif error.errno in MISPLACED:
        todo = "something else lies there: move it, or choose another folder"
    elif error.errno == errno.ENOENT:
        todo = "check the path, and where its links lead"
    else:
        todo = "check the disk"
    return f"{where or 'a file'}: {error.strerror or error}; {todo}"


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Within the block `path` is written by libraries. Raises StorageError where these fail in words of their own."""
    try:
        yield
    except OSError as error:
        raise StorageError(told(error, path)) from error
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not OF_THE_DISK.search(str(error)):
            raise
        why = str(error).strip().splitlines()[0]
        raise StorageError(f"{path}: cannot be written ({why}); make room on the disk, or choose another one") from error


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
    with _replacing(path) as partial:
        # A generation may hold half of a surrogate pair, which UTF-8 has no bytes for.
        partial.write_text(text, encoding="utf-8", errors="replace")


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
    with _replacing(path) as partial:
        table.to_parquet(partial, index=False)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a file beside `path` to write, which then takes its place; deleted if that fails. Errors name `path`."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def whole_folder(out: Path, size: int = 0) -> Iterator[Path]:
    """Yields a folder beside `out` to write `size` bytes into. It becomes `out` when the block ends, and is deleted if it fails.

    What an interrupted attempt left is deleted first. Raises StorageError if the disk has no room, or fails.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        free = shutil.disk_usage(partial).free
        if free < size:
            raise StorageError(
                f"out={out} needs {size / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free; make room or choose another disk"
            )
        with storing(out):
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
