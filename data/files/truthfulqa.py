"""TruthfulQA (arXiv 2109.07958): questions that tempt to repeat common falsehoods, with true and false answers to each.

LLMU and SKU take its questions and answers as ordinary text. Copies with 817 questions (the original) and with 790 (of 2025, with
one more column) are around: numbers on the two do not compare. The authors ask that the data stay out of training corpora; what
is trained on here is the first of three parts, and what is measured is the last.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.checks import choose
from utils.draws import generator
from utils.items.rows import QA
from utils.reading import FILLED, OBJECT, TEXT, DataError, Kind, check_row, check_rows, list_of, read_records, read_text

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
    rows = _csv(path) if path.suffix == ".csv" else read_records(path)
    lists = dict.fromkeys(("correct_answers", "incorrect_answers"), list_of(TEXT))
    found = []
    for row in check_rows(path, rows, {"question": FILLED, "best_answer": FILLED, **lists}):
        correct, incorrect = (tuple(text.strip() for text in row[name]) for name in lists)
        joined = row["joined"] if "joined" in row else "; ".join(correct)
        found.append(Question(row["question"].strip(), row["best_answer"], correct, incorrect, joined))
    return found


def read_multiple_choice(path: Path) -> list[MultipleChoice]:
    """The multiple-choice questions: `mc_task.json` of the authors, or the Hub's records as .jsonl or .parquet.

    Raises DataError with file and row for choices of which none is true or, in mc1, none false.
    """
    rows = check_rows(path, read_records(path), {"question": FILLED, "mc1_targets": OBJECT, "mc2_targets": OBJECT})
    return [
        MultipleChoice(row["question"].strip(), *(_choices(f"{path}, row {number}", row, task) for task in ("mc1", "mc2")))
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
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        columns, lines = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}); fetch the file again") from error
    absent = [column for column in CSV.values() if column not in columns]
    if absent:
        raise DataError(f"{path}: column {absent[0]} is missing; the authors' TruthfulQA.csv has {', '.join(CSV.values())}")
    rows = []
    for number, line in enumerate(lines, start=1):
        if any(line[column] is None for column in CSV.values()):
            raise DataError(f"{path}, row {number}: too few columns; an answer with commas needs quotation marks")
        row = {name: line[column] for name, column in CSV.items()}
        split = {name: row[name].split(";") for name in ("correct_answers", "incorrect_answers")}
        rows.append({**row, **split, "joined": row["correct_answers"]})
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _choices(where: str, row: dict, task: str) -> Choices:
    field, targets = f"{task}_targets", row[f"{task}_targets"]
    if "choices" not in targets:  # as the authors write it: text -> label
        targets = {"choices": list(targets), "labels": list(targets.values())}
    check_row(where, {field: targets}, {field: labelled(some_false=task == "mc1")})
    return Choices(tuple(targets["choices"]), tuple(label == 1 for label in targets["labels"]))


def labelled(some_false: bool = False, true_first: bool = False) -> Kind:
    """Texts to choose from as lists `choices` and `labels`. some_false, true_first: how MC1 is, true_first in the harness."""

    def fits(targets: object) -> bool:
        if not isinstance(targets, dict) or not list_of(FILLED).fits(targets.get("choices")):
            return False
        labels = targets.get("labels")
        if not isinstance(labels, list) or len(labels) != len(targets["choices"]):
            return False
        if 1 not in labels or any(label not in (0, 1) for label in labels):
            return False
        return not (some_false and 0 not in labels) and not (true_first and (labels[0] != 1 or sum(labels) != 1))

    more = ", one of them 0" if some_false else ", the one true choice first, as the harness expects it" if true_first else ""
    return Kind(fits, f"lists of texts `choices` and `labels` of 0 and 1, 1 for what is true{more}")
