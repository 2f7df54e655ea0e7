"""What a method may do besides its loss: choose the parameters that train, and change the weights afterwards.

Each is a `_target_` node of config/method/*.yaml; most methods have neither. (`prepare`, what it does to the data, is in
utils/items/streams.py.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from utils.engine.engine import Engine
from utils.items.benchmark import Benchmark
from utils.tokens.prompts import Encoder


class Region(Protocol):
    """Chooses the parameters that train; the others keep their values and get no optimizer state."""

    def check(self, cfg: DictConfig) -> None:
        """Raises ValueError for what can be seen to be wrong before a model is loaded."""
        ...

    def choose(
        self, engine: Engine, encoder: Encoder, benchmark: Benchmark, settings: Mapping[str, Any], folder: Path
    ) -> Collection[str]:
        """Names of parameters, as `engine.model.named_parameters()` gives them."""
        ...


class Finish(Protocol):
    """Makes the result of a run from what was trained."""

    def check(self, cfg: DictConfig) -> None:
        """Raises ValueError for what can be seen to be wrong before a model is loaded."""
        ...

    def __call__(self, original: Path, trained: Path, out: Path) -> None:
        """original: the model folder that training started from. trained: what came of it, a model or an adapter folder.

        Writes the folder `out`, which appears only when it is whole. Called again after an interruption.
        """
        ...
