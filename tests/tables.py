"""Helpers for tests: token tables made from probabilities that a person can check."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from utils.engine.table import TokenTable


def table(*rows: Sequence[float], **more: Sequence[Sequence[float]]) -> TokenTable:
    """Token table from probabilities, one list per example: table([0.5, 0.25], [0.9]).

    Further statistics come as lists of the same shape: `reference` (probabilities under the reference model) and any other name
    (taken as it is). float64, so that hand-checked values hold to 1e-6.
    """
    width = max(len(row) for row in rows)
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    padded = lambda values, fill: torch.tensor(  # noqa: E731
        [list(row) + [fill] * (width - len(row)) for row in values], dtype=torch.float64
    )
    statistics = {"logp": padded(rows, 1.0).log()}
    for name, values in more.items():
        if name == "reference":
            statistics["reference_logp"] = padded([[math.log(p) for p in row] for row in values], 0.0)
        else:
            statistics[name] = padded(values, 0.0)
    return TokenTable.of(mask, statistics)
