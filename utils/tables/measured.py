"""What a table is made from: the numbers of one evaluated model, and what tells its row apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from utils.items.metric import Metric

Role = Literal["target", "oracle", "method", "relearned", "log", "untouched"]


@dataclass(frozen=True)
class MeasuredCell:
    """One evaluation of one model. folder: of evaluate.py's run; metrics: computed from the scores that it saved.

    seed: None where the row has none, as a model that nobody trained here. settings: what tells the row apart, as its rate.
    """

    row: str
    role: Role
    seed: int | None
    evaluation: str
    folder: Path
    metrics: Mapping[str, Metric]
    settings: Mapping[str, Any]
