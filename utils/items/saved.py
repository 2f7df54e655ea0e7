"""What an evaluation leaves on disk, and what turns it into numbers: no model, and nothing that would load one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pandas as pd

from utils.items.metric import Metric

Row = dict[str, Any]
"""A line of generations.jsonl."""


@dataclass(frozen=True)
class Saved:
    """The files of an evaluation, and what must be known to read them.

    scores, generations: scores.parquet and generations.jsonl, as utils/evaluation/scoring.py describes them and extras filled
    them up. oracle: the retain oracle's scores, for role `answer` with its own answer as `generation`; None without an oracle.
    nulls: the same of oracles trained with other seeds. compat, resamples: as on the command line. forgotten, members: of the
    benchmark (utils/items/benchmark.py).
    """

    scores: pd.DataFrame
    generations: Sequence[Row] = ()
    oracle: pd.DataFrame | None = None
    nulls: Sequence[pd.DataFrame] = ()
    compat: str = "none"
    resamples: int = 1000
    forgotten: tuple[str, ...] = ()
    members: tuple[str, str] | None = None

    def seen_by(self, asker: str) -> Saved:
        """With the rows of the benchmark and of the measure `asker` alone; "": of the benchmark."""
        scores = self.scores[self.scores["asked_by"].isin(("", asker))]
        return replace(self, scores=scores, generations=seen_by(asker, self.generations))

    def rows(self, task: str) -> list[Row]:
        """The rows of generations.jsonl that belong to a task, in order."""
        return [row for row in self.generations if row["task"] == task]


def seen_by(asker: str, rows: Sequence[Row]) -> list[Row]:
    """Rows of generations.jsonl: of the benchmark, and of the measure `asker`."""
    return [row for row in rows if row["asked_by"] in ("", asker)]


class Metrics(Protocol):
    """Numbers of saved files: those of a benchmark, or a measure, which any benchmark may be asked (utils/evaluation/measure.py).

    Both inherit from it. A benchmark's see the rows that it asked for, a measure's also its own.
    """

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """Name -> number. Raises ValueError for files that lack what is needed, naming it; never gives NaN."""
