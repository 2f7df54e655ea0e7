"""What data/benchmarks/own.py reads: questions with answers, conversations, or running text, in the formats of everyday.

    JSON (a list of objects, or an object that holds one), JSON lines (.gz too), CSV and TSV, Parquet
    .txt and .md files, one of them or a folder                       running text, cut into passages
    hub:OWNER/NAME[@REVISION][:CONFIGURATION]:SPLIT                   a data set on the Hub

Usual names of fields are known; `benchmark.fields` names others. One file holds one form, and what was understood is said.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from natsort import natsorted

from data.files.sources import hub_rows
from utils.checks import did_you_mean_or_all, shown
from utils.items.rows import QA, Text
from utils.reading import (
    FILLED,
    DataError,
    as_rows,
    check_row,
    json_lines,
    list_of,
    note_file,
    read_json_lines,
    read_parquet,
    read_text,
    read_value,
)
from utils.tokens.chat import Turn

log = logging.getLogger(__name__)

TEXTS, LINES, TABLES = (".txt", ".md"), (".jsonl", ".ndjson"), {".csv": ",;\t", ".tsv": "\t"}
FORMATS = (*TEXTS, ".json", *LINES, ".jsonl.gz", *TABLES, ".parquet")
HUB = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?::(?P<configuration>[^:]+))?:(?P<split>[^:]+)")

# What a field may be called, the most telling name first.
USUAL: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "chat"),
    "question": ("question", "prompt", "instruction", "query", "user", "input"),
    "answer": ("answer", "response", "output", "completion", "assistant", "reply", "target"),
    "text": ("text", "content", "passage", "document", "body"),
    "paraphrased_question": ("paraphrased_question", "paraphrase"),
    "paraphrased_answer": ("paraphrased_answer",),
    "perturbed_answer": ("perturbed_answer", "wrong_answers", "incorrect_answers"),
}
FORMS = (("messages",), ("question", "answer"), ("text",))
BESIDE = ("paraphrased_question", "paraphrased_answer", "perturbed_answer")
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant"}
LEAST_REST = 4  # what is left of a text is a passage of its own from 1/4 of the length of one


class Place(NamedTuple):
    """Where a row stands, for errors. row: from 1; of running text, the passage."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


@dataclass(frozen=True)
class OwnRow:
    """A pair and what its row says besides: the question or the answer in other words, and wrong answers."""

    place: Place
    pair: QA
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answer: tuple[str, ...] = ()


def check_fields(fields: Mapping[str, str]) -> None:
    """Raises ValueError for a field of `benchmark.fields` that nobody reads, or whose name is no text."""
    for field, name in fields.items():
        if field not in USUAL:
            raise ValueError(f"benchmark.fields.{field}: there is no such field{did_you_mean_or_all(field, USUAL)}")
        if not isinstance(name, str) or not name:
            raise ValueError(f"benchmark.fields.{field}={name}: write the name that the files give it")


def read_own(key: str, source: str, fields: Mapping[str, str], words: int) -> tuple[OwnRow, ...]:
    """The rows of a file, a folder of texts, or a data set on the Hub. Rows that say the same twice count once.

    key: the setting that names it. words: of a passage of running text, about. Raises DataError with file and row.
    """
    files = _files(source)
    for file in files:
        note_file(file)
    state = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _read(key, source, tuple(sorted(fields.items())), words, state)


@lru_cache(maxsize=16)
def _read(key: str, source: str, fields: tuple[tuple[str, str], ...], words: int, state: object) -> tuple[OwnRow, ...]:
    where, raw = _raw(key, source)
    form = _form(key, where, raw, dict(fields))
    rows = [row for number, one in enumerate(raw, start=1) for row in _rows(Place(where, number), one, form, words)]
    unique: dict[QA, OwnRow] = {}
    for row in rows:
        unique.setdefault(row.pair, row)
    found = tuple(unique.values())
    _say(key, source, form, found, len(rows) - len(found))
    return found


def _files(source: str) -> list[Path]:
    """The files behind a source, in their order; none of a data set on the Hub, or where nothing is."""
    path = Path(source).expanduser()
    files = natsorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def _raw(key: str, source: str) -> tuple[str, list[dict[str, Any]]]:
    """Where the rows are, as errors call it, and the rows as they stand there."""
    if source.startswith("hub:"):
        return source, _from_hub(key, source)
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path), _from_folder(key, path)
    if not path.is_file():
        raise DataError(f"{key}={source}: there is no such file or folder; a data set on the Hub is hub:OWNER/NAME:SPLIT")
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if ending not in FORMATS:
        raise DataError(f"{key}={source}: ends in none of {', '.join(FORMATS)}; its name must say what it is")
    if ending in TEXTS:
        return str(path), [{"text": read_text(path)}]
    if ending in TABLES:
        return str(path), _from_table(path, TABLES[ending])
    if ending == ".parquet":
        return str(path), read_parquet(path)
    if ending == ".jsonl.gz":
        return str(path), [row for _, row in json_lines(path)]
    return str(path), read_json_lines(path) if ending in LINES else _from_json(path)


def _from_folder(key: str, folder: Path) -> list[dict[str, Any]]:
    files = _files(str(folder))
    others = [path.name for path in files if path.suffix not in TEXTS]
    if others or not files:
        held = f"holds {others[0]}" if others else "is empty"
        raise DataError(f"{key}={folder}: {held}; a folder is read as running text, of {' and '.join(TEXTS)} files alone")
    texts = {path: read_text(path) for path in files}
    for path, text in texts.items():
        if not text.strip():
            raise DataError(f"{path}: is blank; remove it")
    return [{"text": text} for text in texts.values()]


def _from_json(path: Path) -> list[dict[str, Any]]:
    """A list of objects, an object with one such list in it, or one object per line whatever the name says."""
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines[:2]):
        return read_json_lines(path)
    value = read_value(path)
    if isinstance(value, dict):
        lists = [name for name, part in value.items() if isinstance(part, list) and all(isinstance(row, dict) for row in part)]
        value = value[lists[0]] if len(lists) == 1 and not _fits_a_form(value) else [value]
    return as_rows(path, value)


def _fits_a_form(row: Mapping[str, Any]) -> bool:
    return any(all(set(USUAL[field]) & set(row) for field in form) for form in FORMS)


def _from_table(path: Path, separators: str) -> list[dict[str, Any]]:
    """A table whose first row names its columns; the separator is the one that splits that row into most of them."""
    text = read_text(path)
    header = text.partition("\n")[0]
    separator = max(separators, key=header.count)
    found = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names, *rows = [row for row in found if row]
    except csv.Error as error:
        raise DataError(f"{path}, line {found.line_num}: {error}; check its quotes") from error
    except ValueError:
        raise DataError(f"{path}: holds no rows") from None
    names = [name.strip() for name in names]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise DataError(
                f"{path}, row {number}: {len(row)} columns, where the first line names {len(names)}; check its quotes"
            )
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _from_hub(key: str, source: str) -> list[dict[str, Any]]:
    parts = HUB.fullmatch(source)
    if parts is None:
        raise DataError(
            f"{key}={source}: write hub:OWNER/NAME:SPLIT, with @REVISION or :CONFIGURATION behind the name if need be"
        )
    try:
        return hub_rows(parts["name"], parts["configuration"], parts["split"], parts["revision"] or "main", "")
    except DataError as error:
        raise DataError(
            f"{key}={source}: cannot be fetched ({type(error.__cause__).__name__}); check the name, or download it and name "
            "the file"
        ) from error


def _form(key: str, where: str, rows: Sequence[Mapping[str, Any]], fields: Mapping[str, str]) -> dict[str, str]:
    """Field -> the name that it has in this file, as the first row tells; what only some rows have, as any does.

    Raises DataError if the first row has no known form.
    """
    first, any_row = rows[0], {name for row in rows for name in row}
    for field, name in fields.items():
        if name not in first and field not in BESIDE:
            raise DataError(
                f"{where}, row 1: benchmark.fields.{field}={name}: there is no such field{did_you_mean_or_all(name, first)}"
            )
    names = {
        field: next(
            (name for name in (fields.get(field), *USUAL[field]) if name in (any_row if field in BESIDE else first)), None
        )
        for field in USUAL
    }
    if isinstance(first.get(names["question"] or ""), list):
        names["messages"] = names["question"]  # a prompt of several turns; what answers it are turns too
    asked = [form for form in FORMS if set(form) & set(fields)]
    for form in asked or FORMS:
        if all(names[field] for field in form):
            also = [field for field in BESIDE if names[field]]
            also += ["answer"] if form == ("messages",) and names["messages"] == names["question"] else []
            return {field: str(names[field]) for field in (*form, *also)}
    raise DataError(
        f"{where}, row 1: {key} holds {', '.join(map(str, first))}, of which none is known to be question and answer, messages, "
        "or text; say which: benchmark.fields={question: NAME, answer: NAME}"
    )


def _rows(place: Place, row: Mapping[str, Any], form: Mapping[str, str], words: int) -> Iterator[OwnRow]:
    if "text" in form:
        check_row(str(place), row, {form["text"]: FILLED})
        for passage in passages(row[form["text"]], words):
            yield OwnRow(place, Text("", passage))
        return
    kinds = {"paraphrased_question": FILLED, "paraphrased_answer": FILLED, "perturbed_answer": list_of(FILLED)}
    there = {field: name for field, name in form.items() if field in kinds and row.get(name) not in (None, [], "")}
    check_row(str(place), row, {name: kinds[field] for field, name in there.items()})
    pair = _conversation(place, row, form) if "messages" in form else _pair(place, row, form)
    wrong = tuple(row[there["perturbed_answer"]]) if "perturbed_answer" in there else ()
    if pair.answer in wrong or len({*wrong}) < len(wrong):
        raise DataError(
            f"{place}: field {there['perturbed_answer']} holds the true answer, or one answer twice; write wrong ones"
        )
    texts = {field: row[name] for field, name in there.items() if field != "perturbed_answer"}
    yield OwnRow(place, pair, perturbed_answer=wrong, **texts)


def _pair(place: Place, row: Mapping[str, Any], form: Mapping[str, str]) -> QA:
    """A question with its answer. Beside `instruction`, as Alpaca has it, `input` goes on with the question, and `system` and
    `history` are turns before it."""
    question, answer = form["question"], form["answer"]
    check_row(str(place), row, {question: FILLED, answer: FILLED})
    before: list[Turn] = []
    asked = row[question]
    if question == "instruction":
        check_row(str(place), row, {name: FILLED for name in ("input", "system") if row.get(name)})
        before += [Turn("system", row["system"])] if row.get("system") else []
        for turn in row.get("history") or ():
            if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
                raise DataError(f"{place}: field history must be a list of [question, answer], not {shown(turn)}")
            before += [Turn("user", turn[0]), Turn("assistant", turn[1])]
        asked += f"\n{row['input']}" if row.get("input") else ""
    return QA(asked, row[answer], before=tuple(before))


def _conversation(place: Place, row: Mapping[str, Any], form: Mapping[str, str]) -> QA:
    """The last turn of the assistant is the answer, the turn of the user before it the question. Raises DataError for a
    conversation that does not end so."""
    field = form["messages"]
    turns = [*_turns(place, row, field), *(_turns(place, row, form["answer"]) if "answer" in form else ())]
    if isinstance(row.get("system"), str) and row["system"].strip() and turns[0].role != "system":
        turns.insert(0, Turn("system", row["system"]))
    roles = [turn.role for turn in turns]
    if roles[-2:] != ["user", "assistant"]:
        raise DataError(
            f"{place}: field {field} must end with a turn of the user and one of the assistant, not {', '.join(roles[-2:])}"
        )
    return QA(turns[-2].text, turns[-1].text, before=tuple(turns[:-2]))


def _turns(place: Place, row: Mapping[str, Any], field: str) -> list[Turn]:
    """Turns as role and content, or as from and value."""
    turns = row.get(field)
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{place}: field {field} must be a list of turns, not {shown(turns)}")
    found = []
    for number, turn in enumerate(turns, start=1):
        role, text = (
            (turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) if isinstance(turn, dict) else (0, 0)
        )
        if isinstance(text, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in text):
            text = "\n".join(part["text"] for part in text)
        if role not in ROLES or not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{place}: turn {number} of {field} must have a role (system, user or assistant) and content that is not blank, "
                f"not {shown(turn)}"
            )
        found.append(Turn(ROLES[role], text))
    return found


def passages(text: str, words: int) -> list[str]:
    """Consecutive pieces of a text of `words` words, as they are written; each ends where the last sentence or line ends that
    leaves it three quarters of them, if one does. What is left at the end is a piece of its own if it has a quarter."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    found, first = [], 0
    while len(ends) - first > words + words // LEAST_REST:
        last = next(
            (place for place in range(first + words, first + words - words // 4, -1) if _closes(text, ends, place)), first + words
        )
        found.append(text[ends[first - 1] if first else 0 : ends[last - 1]])
        first = last
    found.append(text[ends[first - 1] if first else 0 :])
    return [piece.strip() for piece in found]


def _closes(text: str, ends: Sequence[int], place: int) -> bool:
    """Whether a sentence or a paragraph ends with word number `place`, from 1."""
    end = ends[place - 1]
    return text[end - 1] in '.!?"”’)' or "\n\n" in text[end : end + 3]


def _say(key: str, source: str, form: Mapping[str, str], rows: Sequence[OwnRow], twice: int) -> None:
    what = "passages" if "text" in form else "conversations" if "messages" in form else "pairs"
    names = ", ".join(field if field == name else f"{field}: {name}" for field, name in form.items())
    pair = rows[0].pair
    example = f"{shown(pair.question)} -> {shown(pair.answer)}" if pair.question else shown(pair.answer)
    again = f"; {twice} more say the same again" if twice else ""
    log.info("%s=%s: %d %s (%s)%s, the first: %s", key, source, len(rows), what, names, again, example)
