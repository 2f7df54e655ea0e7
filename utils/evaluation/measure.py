"""What is asked of any benchmark besides its own metrics: config/measure/<name>.yaml, called for by `measure=[<name>,...]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from utils.items.benchmark import Benchmark, Extra
from utils.items.requests import Request
from utils.items.saved import Metrics


class Measure(Metrics, Protocol):
    """Measures inherit from it: what it defines is what most of them do. `numbers` is all that a measure must have."""

    name: str
    statistics: ClassVar[tuple[str, ...]] = ()
    """Further columns of the score table: names of utils/engine/token_statistics.py."""

    def check(self, benchmark: Benchmark, asked: Sequence[Request]) -> None:
        """Raises ValueError, before a model is loaded, if this cannot be measured on what the benchmark asks."""

    def unfit(self, benchmark: Benchmark, why: str, instead: str = "") -> ValueError:
        """The refusal of a benchmark that cannot be measured. why: what it lacks. instead: what else may be done, `..., or `."""
        return ValueError(f"measure={self.name}: benchmark={benchmark.name} {why}; {instead}leave {self.name} out")

    def requests(self, benchmark: Benchmark, asked: Sequence[Request]) -> list[Request]:
        """Further questions about the benchmark's tasks; the benchmark's own metrics do not see them."""
        return []

    @property
    def extras(self) -> Sequence[Extra]:
        """What it needs and no request can ask for, in this order."""
        return ()
