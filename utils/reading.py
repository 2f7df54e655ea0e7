"""Readers of data files: errors name file and row, and whoever opens `files_read` around them learns what was read."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from utils.fingerprint import bytes_hash, file_hash

COMPRESSED = {".gz": gzip.open, ".xz": lzma.open}
BROKEN = (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)

# What the open block has read; None outside of one. An object would have to be handed through every benchmark, judge and reader
# for one line in run.json. The variable is empty again when its block ends, so a sweep's runs do not see each other's files.
_noted: ContextVar[dict[str, str] | None] = ContextVar("files read", default=None)


class DataError(ValueError):
    """Bad input data; the message names file and row."""


@contextmanager
def files_read() -> Iterator[dict[str, str]]:
    """Within the block, folder/name -> hash of every data file read so far: a run keeps them beside its settings."""
    noted: dict[str, str] = {}
    outer = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(outer)


def note_file(path: Path) -> None:
    """For readers that read a file their own way, or kept what they read before: `files_read` names the file from now on."""
    _note(path, lambda: file_hash(path))


def read_text(path: Path | str) -> str:
    """A data file as text. Raises DataError if it cannot be read or is not UTF-8."""
    path = Path(path).expanduser()
    content = _content(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, row {row}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error


def read_lines(path: Path | str) -> list[str]:
    """The non-empty lines of a UTF-8 text file, stripped. Raises DataError if there are none or the file cannot be read."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path}: holds no lines")
    return lines


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises DataError for bytes that are not UTF-8, lines that are not objects, no rows."""
    rows = [row for _, row in _objects(path, io.BytesIO(_content(path)))]
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each row of a large JSON-lines file, plain, .gz or .xz; never more than a line in memory.

    Not noted: who reads so keeps what it found, and notes the file each time that it is asked for. Raises DataError as
    `read_json_lines` does, and for a broken archive.
    """
    opener = COMPRESSED.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            yield from _objects(path, file)
    except BROKEN as error:
        ending = path.suffix.removeprefix(".")
        raise DataError(f"{path}: broken {ending} file ({error}); fetch it again, or drop .{ending} from its name") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, lists as lists. Raises DataError if it is none or holds no rows."""
    try:
        rows = json.loads(pd.read_parquet(io.BytesIO(_content(path))).to_json(orient="records"))
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file ({type(error).__name__}); fetch it again") from error
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _content(path: Path) -> bytes:
    """The bytes of a file, which is noted."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    _note(path, lambda: bytes_hash(content))
    return content


def _note(path: Path, digest: Callable[[], str]) -> None:
    noted = _noted.get()
    if noted is not None:
        noted[f"{path.parent.name}/{path.name}"] = digest()


def _objects(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each line that is not blank; numbers begin at 1."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, row {number}: not UTF-8 (byte {error.start} of the row); convert it to UTF-8") from error
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: not JSON ({error.msg}); one JSON object per line is expected") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a JSON {type(row).__name__}; one JSON object per line is expected")
        yield number, row
