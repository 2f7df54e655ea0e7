"""What is asked of any benchmark besides its own metrics: config/measure/<name>.yaml, called for by `measure=[<name>,...]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import pandas as pd
from omegaconf import DictConfig

from utils.engine.engine import Engine
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric
from utils.items.requests import OWN, Request
from utils.tokens.prompts import Encoder


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation saved, and of what. oracle: the retain oracle's rows, or None. Tables: metrics/tables.py."""

    scores: pd.DataFrame
    generations: Sequence[dict]
    oracle: pd.DataFrame | None
    benchmark: Benchmark
    split: str
    compat: str
    resamples: int


class Measure(Protocol):
    """Measures inherit from it: what it defines is what most of them do."""

    statistics: ClassVar[tuple[str, ...]] = ()
    """Further columns of the score table: names of utils/engine/token_statistics.py."""

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Raises ValueError, before a model is loaded, if this cannot be measured on the benchmark."""

    def requests(self, benchmark: Benchmark, split: str) -> list[Request]:
        """Further questions, of tasks <task>@<measure>; the benchmark's own metrics do not see them."""
        return []

    def enrich(self, rows: list[dict], engine: Engine, encoder: Encoder, folder: Path, cfg: DictConfig) -> list[dict]:
        """Adds to the rows of generations.jsonl what a request cannot ask for, or rows of tasks <task>@<measure>.

        Called on every process; may keep files in `folder` to go on from.
        """
        return rows

    def from_tables(self, found: Evaluated) -> dict[str, Metric]:
        """Numbers from saved files; calls no model."""
        ...


def of_benchmark(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that no measure added."""
    return table[~table["task"].str.contains(OWN, regex=False)] if len(table) else table


def rows_of_benchmark(rows: Sequence[dict]) -> list[dict]:
    """The rows that no measure added."""
    return [row for row in rows if OWN not in row["task"]]
