"""What an evaluation hands over to extras: a test gives what the extra may use, the rest is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.engine.engine import Engine
from utils.items.benchmark import Resources


def resources(folder: Path = Path("nowhere"), **given: Any) -> Resources:
    parts = {"engine": None, "encoder": None, "benchmark": None, "requests": (), "adapter": no_adapter}
    dials = {"seed": 42, "tokens_per_batch": 8192, "generation_batch_size": 4}
    return Resources(folder=folder, **{**parts, **dials, **given})


def no_adapter() -> Engine:
    raise ValueError("model.path=None holds no adapter")
