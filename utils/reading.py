"""Readers of data files, whose errors name file and row."""

from __future__ import annotations

import json
from pathlib import Path

from utils.fingerprint import file_hash

_read: dict[str, str] = {}


class DataError(ValueError):
    """Bad input data; the message names file and row."""


def files_read() -> dict[str, str]:
    """folder/name -> hash of every data file read since `forget_files`: a run keeps them beside its settings."""
    return dict(sorted(_read.items()))


def forget_files() -> None:
    """A new run begins; a sweep runs many in one process."""
    _read.clear()


def read_text(path: Path | str) -> str:
    """A data file as text, noted for `files_read`. Raises DataError if it cannot be read or is not UTF-8."""
    path = Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, row {row}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error
    note_file(path)
    return text


def note_file(path: Path) -> None:
    """For readers of files that are not text: `files_read` names the file from now on."""
    _read[f"{path.parent.name}/{path.name}"] = file_hash(path)


def read_json_lines(path: Path) -> list[dict]:
    """The objects of a JSON-lines file. Raises DataError for bytes that are not UTF-8, lines that are not objects, no rows."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: not JSON ({error.msg}); one JSON object per line is expected") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a JSON {type(row).__name__}; one JSON object per line is expected")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def read_lines(path: Path | str) -> list[str]:
    """The non-empty lines of a UTF-8 text file, stripped. Raises DataError if there are none or the file cannot be read."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path}: holds no lines")
    return lines
