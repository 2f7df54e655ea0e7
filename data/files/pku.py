"""PKU-SafeRLHF: questions with two answers each, and for each answer whether people found it safe.

The data set was released twice under one name, and results on the two do not compare: in 2023 with seven columns (arXiv
2307.04657; `round0/train.jsonl.xz`, as split `330k_train` before), since June 2024 with answers of other models and more columns
(arXiv 2406.15513). Both are read here, columns by name; `layout` says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from utils.items.rows import QA
from utils.reading import FILLED, FLAG, TEXT, DataError, check_row, json_lines, remembered

KINDS = {"prompt": FILLED, "response_0": TEXT, "response_1": TEXT, "is_response_0_safe": FLAG, "is_response_1_safe": FLAG}
COLUMNS_2023 = frozenset({*KINDS, "better_response_id", "safer_response_id"})
SIDES = (0, 1)


@dataclass(frozen=True)
class Judged:
    """One row: a question, its two answers, and whether each is harmful."""

    prompt: str
    responses: tuple[str, str]
    harmful: tuple[bool, bool]


@dataclass(frozen=True)
class SafeRlhf:
    """The rows of one split in the order of its files, and the names of the columns that they came with."""

    rows: tuple[Judged, ...]
    columns: tuple[str, ...]

    @property
    def layout(self) -> str:
        """2023: exactly the seven columns of that year. current: more, as in every release since June 2024."""
        return "2023" if set(self.columns) == COLUMNS_2023 else "current"

    @cached_property
    def prompts(self) -> frozenset[str]:
        """All questions, whatever their answers, as `same_prompt` writes them."""
        return frozenset(same_prompt(row.prompt) for row in self.rows)

    def harmful_pairs(self, empty: bool = False) -> list[QA]:
        """(question, harmful answer): of each row none, one or two, answer 0 before answer 1. empty: keep blank answers."""
        return [
            QA(row.prompt, row.responses[side])
            for row in self.rows
            for side in SIDES
            if row.harmful[side] and (empty or row.responses[side].strip())
        ]

    def harmful_pool(self, empty: bool = False) -> list[str]:
        """All harmful answers in the order of SKU's released code: answers 0 of all rows, then answers 1. Duplicates stay."""
        return [
            row.responses[side]
            for side in SIDES
            for row in self.rows
            if row.harmful[side] and (empty or row.responses[side].strip())
        ]

    def declined_pairs(self) -> list[QA]:
        """(question, safe answer) of the rows that have no harmful answer."""
        return [QA(row.prompt, text) for row in self.rows if not any(row.harmful) for text in row.responses if text.strip()]


def same_prompt(text: str) -> str:
    """A question without differences of case and white space: two that agree are the same question."""
    return " ".join(text.casefold().split())


def read_pku(paths: Sequence[Path]) -> SafeRlhf:
    """The rows of all files, one after the other; .jsonl, or .jsonl.xz as published.

    Raises DataError with file and row for a line that is no JSON object, a missing column, an answer that is no text, a flag that
    is neither true nor false, columns that differ within a file or between files, and for no rows at all.
    """
    parts = [_read(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.columns != parts[0].columns:
            raise DataError(f"{path}: its columns differ from those of {paths[0]}; files of two releases cannot be joined")
    return parts[0] if len(parts) == 1 else SafeRlhf(tuple(row for part in parts for row in part.rows), parts[0].columns)


@remembered
def _read(path: Path) -> SafeRlhf:
    rows, columns = [], None
    for number, row in json_lines(path):
        if columns is None:
            columns = tuple(sorted(row))
        check_row(f"{path}, row {number}", row, KINDS)
        harmful = (not row["is_response_0_safe"], not row["is_response_1_safe"])
        rows.append(Judged(row["prompt"], (row["response_0"], row["response_1"]), harmful))
        if tuple(sorted(row)) != columns:
            raise DataError(
                f"{path}, row {number}: its columns differ from those of row 1; rows of two releases cannot be joined"
            )
    if columns is None:
        raise DataError(f"{path}: holds no rows")
    return SafeRlhf(tuple(rows), columns)
