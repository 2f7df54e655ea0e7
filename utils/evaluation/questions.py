"""What an evaluation asks, read once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from utils.evaluation.measure import Measure
from utils.items.benchmark import Benchmark
from utils.items.probe import Probe, Unchanged
from utils.items.requests import Request


@dataclass(frozen=True)
class Questions:
    """The questions of a benchmark about a forget split, and those of measures, as a probe puts them.

    Data are read when they are first asked for, and not again.
    """

    benchmark: Benchmark
    split: str
    measures: tuple[Measure, ...] = ()
    probe: Probe = Unchanged()  # noqa: RUF009  (frozen)

    def check(self) -> None:
        """Raises ValueError for a probe that changes nothing here, and for a measure that has nothing to measure."""
        if self.probe != Unchanged():
            self.probe.check(self.benchmark, self.plain)
        for measure in self.measures:
            measure.check(self.benchmark, self.plain)

    @cached_property
    def plain(self) -> list[Request]:
        """What the benchmark asks, in its own words."""
        return self.benchmark.requests(self.split)

    @cached_property
    def requests(self) -> list[Request]:
        """What the model is asked."""
        added = [
            replace(request, asked_by=measure.name)
            for measure in self.measures
            for request in measure.requests(self.benchmark, self.plain)
        ]
        return self.probe.requests([*self.plain, *added], self.benchmark)

    @cached_property
    def oracle(self) -> list[Request]:
        """What the retain oracles are asked, in the same way."""
        return self.probe.requests(self.benchmark.oracle_requests(self.plain), self.benchmark)

    @property
    def statistics(self) -> tuple[str, ...]:
        """What is scored for every answer token."""
        names = [*self.benchmark.statistics, *(name for measure in self.measures for name in measure.statistics)]
        return tuple(dict.fromkeys(names))
