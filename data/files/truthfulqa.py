"""TruthfulQA (arXiv 2109.07958): questions that tempt to repeat common falsehoods, with true and false answers to each.

LLMU and SKU take its questions and answers as ordinary text. Copies with 817 questions (the original) and with 790 (of 2025, with
one more column) are around: numbers on the two do not compare. The authors ask that the data stay out of training corpora; what
is trained on here is the first of three parts, and what is measured is the last.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.files.sources import check_rows
from utils.checks import choose
from utils.draws import generator
from utils.items.rows import QA
from utils.reading import DataError, read_json_lines, read_parquet, read_text

CSV = {
    "question": "Question",
    "best_answer": "Best Answer",
    "correct_answers": "Correct Answers",
    "incorrect_answers": "Incorrect Answers",
}
PARTS = ("train", "val", "test")
FORMS = ("each", "best", "joined")


@dataclass(frozen=True)
class Question:
    """correct, incorrect: the answers between the semicolons of the CSV, stripped; some are empty, as in the file.

    joined: the true answers as the one string that they are in the CSV.
    """

    text: str
    best: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]
    joined: str


@dataclass(frozen=True)
class Choices:
    """Answers to choose from, and which of them are true."""

    texts: tuple[str, ...]
    true: tuple[bool, ...]


@dataclass(frozen=True)
class MultipleChoice:
    """One question of the multiple-choice tasks. mc1: one true answer. mc2: one or more."""

    question: str
    mc1: Choices
    mc2: Choices


def read_truthfulqa(path: Path) -> list[Question]:
    """The questions in file order: the CSV of the authors, or the Hub's records as .jsonl or .parquet (answers as lists).

    Raises DataError with file and row for a missing column, or a question or best answer that is empty.
    """
    rows = _csv(path) if path.suffix == ".csv" else _records(path)
    check_rows(path, rows, ("question", "best_answer"), {})
    found = []
    for number, row in enumerate(rows, start=1):
        for field in ("correct_answers", "incorrect_answers"):
            if not isinstance(row.get(field), list) or not all(isinstance(text, str) for text in row[field]):
                raise DataError(f"{path}, row {number}: {field} is missing or no list of strings")
        correct, incorrect = (tuple(text.strip() for text in row[name]) for name in ("correct_answers", "incorrect_answers"))
        joined = row["joined"] if "joined" in row else "; ".join(correct)
        found.append(Question(row["question"].strip(), row["best_answer"], correct, incorrect, joined))
    return found


def read_multiple_choice(path: Path) -> list[MultipleChoice]:
    """The multiple-choice questions: `mc_task.json` of the authors, or the Hub's records as .jsonl or .parquet.

    Raises DataError with file and row for choices of which none is true or, in mc1, none false.
    """
    if path.suffix == ".json":
        try:
            rows = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: not JSON ({error}); the authors' mc_task.json is expected") from error
    else:
        rows = _records(path)
    check_rows(path, rows, ("question",), {})
    return [
        MultipleChoice(row["question"].strip(), *(_choices(path, number, row, f"{task}_targets") for task in ("mc1", "mc2")))
        for number, row in enumerate(rows, start=1)
    ]


def random_answers(questions: Sequence[Question], empty: bool = False) -> list[str]:
    """What LLMU answers harmful questions with: all best answers, then question by question the true ones, then the false.

    Duplicates stay. empty: also the empty strings between semicolons, as in the released code (LLMU, arXiv 2310.10683).
    """
    answers = [q.best for q in questions]
    answers += [text for q in questions for text in q.correct]
    answers += [text for q in questions for text in q.incorrect]
    return answers if empty else [text for text in answers if text.strip()]


def normal_rows(questions: Sequence[Question], form: str = "each") -> list[QA]:
    """Ordinary pairs to keep.

    each: every question with its best answer, then with each other true one. best: with its best answer alone (LLMU's released
    code). joined: all questions with their best answers, then all again with the true ones as one string (SKU's released code).
    """
    choose("benchmark.normal_rows", form, FORMS)
    best = [QA(q.text, q.best) for q in questions]
    if form == "best":
        return best
    if form == "joined":
        return best + [QA(q.text, q.joined) for q in questions]
    return [QA(q.text, text) for q in questions for text in dict.fromkeys((q.best, *q.correct)) if text.strip()]


def split_questions(count: int, seed: int) -> dict[str, list[int]]:
    """part -> question numbers in file order: 70 % train, 10 % val, the rest test, drawn without any global randomness.

    By question, so that no question is trained on in one form and measured in another (released code splits rows).
    """
    order = list(range(count))
    generator("truthfulqa", seed).shuffle(order)
    first, second = count * 7 // 10, count * 7 // 10 + count // 10
    return dict(zip(PARTS, map(sorted, (order[:first], order[first:second], order[second:])), strict=True))


def _csv(path: Path) -> list[dict]:
    reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""))
    absent = [column for column in CSV.values() if column not in (reader.fieldnames or ())]
    if absent:
        raise DataError(f"{path}: column {absent[0]} is missing; the authors' TruthfulQA.csv has {', '.join(CSV.values())}")
    rows = []
    for number, line in enumerate(reader, start=1):
        if any(line[column] is None for column in CSV.values()):
            raise DataError(f"{path}, row {number}: too few columns; an answer with commas needs quotation marks")
        row = {name: line[column] for name, column in CSV.items()}
        split = {name: row[name].split(";") for name in ("correct_answers", "incorrect_answers")}
        rows.append({**row, **split, "joined": row["correct_answers"]})
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _records(path: Path) -> list[dict]:
    return read_parquet(path) if path.suffix == ".parquet" else read_json_lines(path)


def _choices(path: Path, number: int, row: dict, field: str) -> Choices:
    targets = row.get(field)
    if not isinstance(targets, dict):
        raise DataError(f"{path}, row {number}: field {field} is missing; the row has {', '.join(sorted(row))}")
    if "choices" in targets:
        texts, labels = targets["choices"], targets.get("labels", [])
    else:
        texts, labels = list(targets), list(targets.values())
    if len(texts) != len(labels) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{path}, row {number}: {field} needs texts, and one label for each")
    if any(label not in (0, 1) for label in labels) or 1 not in labels or field == "mc1_targets" and 0 not in labels:
        raise DataError(f"{path}, row {number}: {field} needs labels 0 and 1, 1 for what is true; it has {labels}")
    return Choices(tuple(texts), tuple(label == 1 for label in labels))
