"""Readers of data files: errors name file and row, and whoever opens `files_read` around them learns what was read."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils.checks import LONGEST, first_line, is_number
from utils.fingerprint import bytes_hash, file_hash

COMPRESSED = {".gz": gzip.open, ".xz": lzma.open}
MARK = "\ufeff"  # a byte-order mark, which some programs write in front
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON escapes half of a surrogate pair, or a whole one
HALVES = re.compile("[\ud800-\udfff]")
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


def remembered(read: Callable[..., Any]) -> Callable[..., Any]:
    """For a slow reader read(path, ...): it is noted each time, and read again only when the file was edited since."""
    cached = lru_cache(maxsize=8)(lambda path, state, *options: read(path, *options))

    @wraps(read)
    def reader(path: Path, *options: Any) -> Any:
        note_file(path)
        state = path.stat()
        return cached(path, (state.st_mtime_ns, state.st_size), *options)

    return reader


def read_text(path: Path | str) -> str:
    """A data file as text, without a byte-order mark. Raises DataError if it cannot be read or is not UTF-8."""
    path = Path(path).expanduser()
    content = _content(path)
    try:
        return content.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, row {row}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error


def read_lines(path: Path | str) -> list[str]:
    """The non-empty lines of a UTF-8 text file, stripped. Raises DataError if there are none or the file cannot be read."""
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]  # a line may hold U+2028
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
    content = _content(path)
    try:
        rows = _parsed(pd.read_parquet(io.BytesIO(content)).to_json(orient="records"))
    except Exception as error:  # libraries find out in many ways that a file is damaged
        raise DataError(f"{path}: not a Parquet file ({first_line(error)}); fetch it again") from error
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def read_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, of a JSON list, or of JSON lines. Raises DataError as their readers do."""
    if path.suffix == ".parquet":
        return read_parquet(path)
    return read_list(path) if read_text(path).lstrip().startswith("[") else read_json_lines(path)


def read_list(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a JSON list. Raises DataError naming line or row if it is none, or an empty one."""
    return as_rows(path, read_value(path))


def read_value(path: Path | str) -> Any:
    """What a JSON file holds. Raises DataError naming the line if it is none."""
    text = read_text(path)
    try:
        return _parsed(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); a list of objects is expected") from error
    except NotPlain as error:
        raise DataError(f"{path}: {error}") from error


def as_rows(where: Path | str, value: object) -> list[dict[str, Any]]:
    """The value, if it is a list of one or more objects. Raises DataError naming the row if not."""
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else f"a {type(value).__name__}"
        raise DataError(f"{where}: a list of objects is expected, not {found}")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{where}, row {number}: a JSON {type(row).__name__}; a list of objects is expected")
    return value


class Kind(NamedTuple):
    """What a field of a row must be. words: as in `field answer must be ...`."""

    fits: Callable[[Any], bool]
    words: str


TEXT = Kind(lambda value: isinstance(value, str), "a text")
FILLED = Kind(lambda value: isinstance(value, str) and bool(value.strip()), "a text that is not blank")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
SHARE = Kind(lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
OBJECT = Kind(lambda value: isinstance(value, dict), "an object")


def list_of(kind: Kind, count: int | None = None) -> Kind:
    """A list of so many of a kind; without a count, of any number, none included."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and count in (None, len(value)) and all(map(kind.fits, value))

    return Kind(fits, f"a list{'' if count is None else f' of {count}'}, each {kind.words}")


def one_of(*valid: str) -> Kind:
    """One of these words; a label may be a number or its digits."""
    return Kind(lambda value: str(value) in valid, f"one of {', '.join(valid)}")


def check_rows(
    where: Path | str, rows: Sequence[dict], kinds: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> list[dict]:
    """The rows, if each has all fields and each field is of its kind. Raises DataError naming row, field and value if not.

    optional: fields that a row may lack.
    """
    for number, row in enumerate(rows, start=1):
        there = {field: kind for field, kind in (optional or {}).items() if row.get(field) is not None}
        check_row(f"{where}, row {number}", row, {**kinds, **there})
    return list(rows)


def check_row(where: str, row: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """The same of one row. where: file and row."""
    for field, kind in kinds.items():
        if field not in row:
            raise DataError(f"{where}: field {field} is missing; the row has {', '.join(sorted(row))}")
        if not kind.fits(row[field]):
            found = repr(row[field])
            found = found if len(found) <= LONGEST else f"{found[:LONGEST]} ..."
            raise DataError(f"{where}: field {field} must be {kind.words}, not {found}")


def check_distinct(where: Path | str, questions: Iterable[str]) -> None:
    """Raises DataError for a question that an earlier row has too."""
    first: dict[str, int] = {}
    for number, question in enumerate(questions, start=1):
        if first.setdefault(question, number) != number:
            raise DataError(f"{where}, row {number}: field question repeats row {first[question]}; remove one of the two")


def _content(path: Path) -> bytes:
    """The bytes of a file, which is noted."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    _note(path, lambda: bytes_hash(content))
    return content


class NotPlain(ValueError):
    """JSON that Python reads and that means nothing, or not one thing."""


def _parsed(text: str) -> Any:
    """What JSON says. Raises JSONDecodeError, and NotPlain for what is no text, or says a key twice, or has no end."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise NotPlain("nested too deeply; write plain rows") from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise NotPlain(f"{first_line(error)}; write plain rows") from error
    if HALF.search(text) and (half := HALVES.search(json.dumps(value, ensure_ascii=False))):
        code = half[0].encode("unicode_escape").decode()
        raise NotPlain(f"holds half of a surrogate pair ({code}), which is no character; write the whole one")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotPlain(f"field {twice} stands twice in one row; remove one of the two")
    return found


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
            row = _parsed(line.decode("utf-8").removeprefix(MARK if number == 1 else ""))
        except NotPlain as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, row {number}: not UTF-8 (byte {error.start} of the row); convert it to UTF-8") from error
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: not JSON ({error.msg}); one JSON object per line is expected") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a JSON {type(row).__name__}; one JSON object per line is expected")
        yield number, row
