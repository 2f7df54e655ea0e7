"""Inverted facts: answers that contradict the true one, several per question. MEOW (arXiv 2409.11844) trains on some of them.

A file is a JSON list of records {question, undesired_answer (the true one), answer_0, answer_1, ...}, as released with MEOW and
written by scripts/invert_facts.py. Scored files add undesired_answer_rouge1 and answer_j_rouge1, the MEMO score of each answer
(metrics/verbatim.py). An older schema scores the true answer only, as rouge1, rouge2, rougeL: it cannot choose among facts.

The facts are lines that a language model wrote, and some are none: `defects` says what becomes of these.

    drop    (default) blank lines, headers (ending in a colon), repetitions and the true answer itself are left out, list marks
            cut off; an only fact where others have several, and a fact over several lines, are kept and counted
    refuse  any of these is an error that names file, row and field
    keep    released code: everything is a fact, exactly as it stands in the file
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from utils.checks import choose, whole
from utils.draws import generator
from utils.files import write_json
from utils.items.rows import QA
from utils.reading import FILLED, SHARE, TEXT, DataError, check_distinct, check_row, read_list

Defects = Literal["drop", "refuse", "keep"]
Order = Literal["largest", "smallest", "random"]
Tie = Literal["paper", "meow"]
Missing = Literal["paper", "meow"]
Unmatched = Literal["refuse", "leave_out"]

# kind of defect: what is wrong with one fact; what a summary calls many
DEFECTS = {
    "blank": ("is blank", "blank (left out)"),
    "header": ("ends with a colon, so it announces facts and is none", "headers (left out)"),
    "mark": ("starts with a list mark", "with a list mark (cut off)"),
    "true": ("is the true answer", "equal to the true answer (left out)"),
    "repeated": ("repeats another one", "repeated (left out)"),
    "lines": ("goes over several lines", "over several lines (kept)"),
    "only": ("is the only one, while most records have several", "alone where most records have several (kept)"),
}
OLD_SCHEMA = ("rouge1", "rouge2", "rougeL")
_FIELD = re.compile(r"answer_(\d+)")
_MARK = re.compile(r"(?:\d{1,2}[.)]|[-*•])(?:\s+|$)")


@dataclass(frozen=True)
class InvertedFacts:
    """A question, its true answer, and answers that contradict it. scores: MEMO of each fact in turn; None: not scored."""

    question: str
    answer: str
    facts: tuple[str, ...]
    answer_score: float | None = None
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class FactFile:
    """The records of one file, in its order. defects: kind (see DEFECTS) -> number of facts."""

    path: str
    records: tuple[InvertedFacts, ...]
    defects: Mapping[str, int]

    @property
    def scored(self) -> bool:
        """Whether every fact has a score."""
        return all(record.scores is not None for record in self.records)

    def summary(self) -> str:
        """One line: how many records and facts, and what was the matter with how many."""
        facts = sum(len(record.facts) for record in self.records)
        odd = [f"{self.defects[kind]} {plural}" for kind, (_, plural) in DEFECTS.items() if self.defects.get(kind)]
        return f"{self.path}: {len(self.records)} records, {facts} facts" + (f"; {', '.join(odd)}" if odd else "")

    def join(self, pairs: Sequence[QA], unmatched: Unmatched = "refuse") -> list[InvertedFacts]:
        """The record of each pair, in the order of `pairs`, by exact question text. leave_out: passes over pairs without one.

        Raises DataError for pairs without a record, and if a record's true answer is not the pair's: its facts contradict that.
        """
        choose("unmatched", unmatched, get_args(Unmatched))
        records = {record.question: record for record in self.records}
        lacking = [pair.question for pair in pairs if pair.question not in records]
        if lacking and (unmatched == "refuse" or len(lacking) == len(pairs)):
            raise DataError(
                f"{self.path}: {len(lacking)} of {len(pairs)} questions have no inverted facts, the first is {lacking[0]!r}; "
                "write them with scripts/invert_facts.py, or leave these questions out with unmatched=leave_out"
            )
        matched = [pair for pair in pairs if pair.question in records]
        other = [pair for pair in matched if records[pair.question].answer.strip() != pair.answer.strip()]
        if other:
            raise DataError(
                f"{self.path}: the true answer of {len(other)} questions is not the benchmark's, the first is "
                f"{other[0].question!r}; invert the answers of this benchmark with scripts/invert_facts.py"
            )
        return [records[pair.question] for pair in matched]


def read_inverted(path: Path | str, scored: bool = False, defects: Defects = "drop") -> FactFile:
    """Reads a file of inverted facts. scored: whether each fact must have a score.

    Raises DataError naming file, row (from 1) and field: no JSON list, missing or wrong fields, no (usable) fact, missing or
    impossible scores, a question that occurs twice; with defects=refuse for anything that drop would mend.
    """
    choose("defects", defects, get_args(Defects))
    rows = read_list(path)
    counts = Counter(len(_fields(row)) for row in rows)
    usual = counts.most_common(1)[0][0]
    total: Counter[str] = Counter()
    records: list[InvertedFacts] = []
    for number, row in enumerate(rows, start=1):
        record, odd = _record(f"{path}, row {number}", row, scored, defects, alone_is_odd=usual > 1)
        records.append(record)
        total.update(odd)
    check_distinct(path, (record.question for record in records))
    return FactFile(str(path), tuple(records), dict(total))


def write_inverted(path: Path, records: Sequence[InvertedFacts]) -> None:
    """Writes records in the layout that `read_inverted` reads, with scores where there are any; never half a file."""
    rows = []
    for record in records:
        row: dict[str, str | float] = {"question": record.question, "undesired_answer": record.answer}
        row |= {f"answer_{j}": fact for j, fact in enumerate(record.facts)}
        if record.answer_score is not None:
            row["undesired_answer_rouge1"] = record.answer_score
        row |= {f"answer_{j}_rouge1": score for j, score in enumerate(record.scores or ())}
        rows.append(row)
    write_json(path, rows)


def tidy(lines: Sequence[str], answer: str) -> tuple[dict[int, str], list[tuple[str, int]]]:
    """The facts among the lines that a model wrote to contradict `answer`: place -> text; and (kind of defect, place) pairs.

    List marks are cut off only if every line has one, so that a fact may well begin with "7. ".
    """
    defects = []
    facts: dict[int, str] = {}
    for place, line in enumerate(lines):
        text = line.strip()
        if not text or text.endswith(":"):
            defects.append(("header" if text else "blank", place))
        else:
            facts[place] = text
    if len(facts) > 1 and all(_MARK.match(text) for text in facts.values()):
        defects += [("mark", place) for place in facts]
        facts = {place: _MARK.sub("", text, count=1) for place, text in facts.items()}
    kept: dict[int, str] = {}
    for place, text in facts.items():
        if not text:
            defects.append(("blank", place))
        elif text == answer.strip():
            defects.append(("true", place))
        elif text in kept.values():
            defects.append(("repeated", place))
        else:
            kept[place] = text
            if len(text.splitlines()) > 1:
                defects.append(("lines", place))
    return kept, defects


def select(
    scores: Sequence[float],
    k: int,
    order: Order = "largest",
    tie: Tie = "paper",
    missing: Missing = "paper",
    seed: int = 0,
    index: int = 0,
    random_state: int | None = None,
) -> list[int]:
    """The k facts of one question to train on, by their MEMO scores; places in `scores`, best first.

    order: largest (released script) | smallest (released class default) | random, a pure function of (seed, index).
    tie: paper takes equal scores in their order; meow, released code, looks a score up again and finds the first fact that has
    it, again and again. missing: with fewer than k facts paper takes fewer, and meow fills up with fact 0.
    random_state: reseed with this number for every question, so that all draw the same places (released: 42).

    Source: the code released with arXiv 2409.11844. Raises ValueError for k < 1, an unknown option, NaN, and for no scores
    (with missing=meow fact 0 is taken k times).
    """
    for name, value, valid in (("order", order, Order), ("tie", tie, Tie), ("missing", missing, Missing)):
        choose(name, value, get_args(valid))
    whole("k", k, 1, "released: 3")
    if not scores and missing == "paper":
        raise ValueError("there are no inverted facts to choose from: no scores were given")
    if any(math.isnan(score) for score in scores):
        raise ValueError(f"score number {[math.isnan(s) for s in scores].index(True)} is NaN: score the facts again")
    places = range(len(scores))
    if order == "random":
        dice = generator("inverted", seed, index) if random_state is None else generator(random_state)
        chosen = dice.sample(places, min(k, len(scores)))
    else:
        sign = -1 if order == "largest" else 1
        chosen = sorted(places, key=lambda place: sign * scores[place])[:k]
    if tie == "meow":
        chosen = [list(scores).index(scores[place]) for place in chosen]
    return chosen + [0] * (k - len(chosen)) if missing == "meow" else chosen


def slots(selected: Sequence[int], copies: int = 4) -> list[int]:
    """Which fact each of a question's `copies` training sequences carries: the selected ones in turn.

    4 is what the released training loop sees; with k = 3 the best fact counts twice. Raises ValueError for copies < 1 or no fact.
    """
    whole("copies", copies, 1, "released: 4")
    if not selected:
        raise ValueError("there are no facts to train on: none was selected")
    return [selected[i % len(selected)] for i in range(copies)]


def _record(where: str, row: dict, scored: bool, defects: Defects, alone_is_odd: bool) -> tuple[InvertedFacts, Counter[str]]:
    """One record, and how many of its facts had which defect."""
    check_row(where, row, {"question": FILLED, "undesired_answer": FILLED})
    fields = _fields(row)
    if not fields:
        raise DataError(f"{where}: there is no field answer_0, so no inverted fact; the record has {', '.join(sorted(row))}")
    check_row(where, row, dict.fromkeys(fields, TEXT))
    texts = [row[field] for field in fields]
    answer = row["undesired_answer"]
    scores = _scores(where, row, fields, scored)
    (answer_score,) = _numbers(where, row, ["undesired_answer_rouge1"]) if "undesired_answer_rouge1" in row else (None,)
    if defects == "keep":
        return InvertedFacts(row["question"], answer, tuple(texts), answer_score, tuple(scores) if scores else None), Counter()
    facts, odd = tidy(texts, answer)
    if len(fields) == 1 and alone_is_odd:
        odd.append(("only", 0))
    if odd and defects == "refuse":
        kind, place = odd[0]
        raise DataError(
            f"{where}: field {fields[place]} {DEFECTS[kind][0]}: {texts[place]!r}; mend the file, or use defects=drop"
        )
    marked = [place for kind, place in odd if kind == "mark"]
    if scores and marked:
        raise DataError(
            f"{where}: field {fields[marked[0]]} was scored with its list mark; remove the mark and the field "
            f"{fields[marked[0]]}_rouge1 to score it again, or use defects=keep"
        )
    if not facts:
        raise DataError(f"{where}: none of {', '.join(fields)} is an inverted fact (they are {_kinds(odd)}); write it again")
    kept_scores = tuple(scores[place] for place in facts) if scores else None
    kinds = Counter(kind for kind, _ in odd)
    return InvertedFacts(row["question"], answer, tuple(facts.values()), answer_score, kept_scores), kinds


def _fields(row: Mapping) -> list[str]:
    """answer_0, answer_1, ... of a record, by number."""
    return sorted((field for field in row if _FIELD.fullmatch(field)), key=lambda field: int(field[len("answer_") :]))


def _scores(where: str, row: Mapping, fields: Sequence[str], needed: bool) -> list[float] | None:
    """The score of every fact; None if there is no score and none is needed."""
    names = [f"{field}_rouge1" for field in fields]
    absent = [name for name in names if name not in row]
    if len(absent) == len(names) and not needed:
        return None
    if len(absent) == len(names) and any(name in row for name in OLD_SCHEMA):
        raise DataError(
            f"{where}: field {absent[0]} is missing, and rouge1, rouge2, rougeL are scores of the true answer alone, "
            "which cannot choose among facts; score the facts"
        )
    if absent:
        raise DataError(f"{where}: field {absent[0]}, a MEMO score, is missing; score the facts of all records, or of none")
    return _numbers(where, row, names)


def _numbers(where: str, row: Mapping, names: Sequence[str]) -> list[float]:
    check_row(where, row, dict.fromkeys(names, SHARE))
    return [float(row[name]) for name in names]


def _kinds(odd: Sequence[tuple[str, int]]) -> str:
    return ", ".join(dict.fromkeys(DEFECTS[kind][1].removesuffix(" (left out)") for kind, _ in odd))
