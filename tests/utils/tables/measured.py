"""Cells with invented numbers: four answers to two authors, whose mean is the number asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.items.metric import Metric, measured
from utils.tables.measured import MeasuredCell, Role

AROUND = np.array([-0.02, 0.01, -0.01, 0.02])


def number(value: float) -> Metric:
    found = measured({"forget": value + AROUND}, "mean of <p>", resamples=2)
    return found.clustered(lambda _, index: f"author {index // 2}")


def cells(
    row: str, role: Role, values: Mapping[str, Any], evaluation: str = "plain", settings: Mapping[str, Any] | None = None
) -> list[MeasuredCell]:
    """One cell per seed: metric -> its number for seeds 0, 1, ..., None where a seed has none."""
    seeds = range(max(map(len, values.values())))
    return [
        MeasuredCell(
            row,
            role,
            seed,
            evaluation,
            Path("runs") / row / str(seed),
            {name: number(of[seed]) for name, of in values.items() if len(of) > seed and of[seed] is not None},
            settings or {},
        )
        for seed in seeds
    ]


@dataclass(frozen=True)
class Said:
    """A verdict as the table asks for it."""

    words: str
    published: str | float | None
    difference: float | None
    sentence: str
