"""What an evaluation asks: read once, by whoever asks first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from data.benchmarks.tofu import Tofu
from data.probes import Sample
from utils.engine.sampling import Sampling
from utils.evaluation.measure import Measure
from utils.evaluation.questions import Questions
from utils.items.requests import Request

READ: list[str] = []


class Counted(Tofu):
    """Says when its data are read."""

    def requests(self, split: str) -> list[Request]:
        READ.append(split)
        return super().requests(split)


@dataclass(frozen=True)
class Again(Measure):
    """Asks the first question once more, and for another column."""

    name: str = "again"

    statistics: ClassVar[tuple[str, ...]] = ("entropy", "logp")

    def requests(self, benchmark, asked):
        return [replace(asked[0], answers=())]


TOFU = Counted("tofu", "owner/data", "0123", "fixture", rows=2)


@pytest.fixture(autouse=True)
def nothing_read():
    READ.clear()


def test_nothing_is_read_before_it_is_asked_for_and_nothing_twice():
    asked = Questions(TOFU, "forget05", (Again(), Again("more")), Sample())
    assert asked.statistics == ("logp", "hit", "entropy") and not READ
    Questions(TOFU, "forget05").check()
    assert not READ
    for _ in range(2):
        asked.check()
        assert len(asked.requests) == len(asked.plain) + 2 and {request.task for request in asked.oracle} == set(TOFU.members)
    assert READ == ["forget05"]


def test_what_a_measure_asks_bears_its_name_and_is_put_as_the_probe_puts_it():
    asked = Questions(TOFU, "forget05", (Again(),), Sample(seed=3))
    *plain, again = asked.requests
    assert {request.asked_by for request in [*plain, *asked.oracle]} == {""} and again.asked_by == "again"
    assert (again.task, again.index, again.sampling) == ("forget", 0, Sampling(seed=3))
    assert asked.plain[0].sampling is None


def test_what_cannot_be_measured_is_refused():
    class Never(Again):
        def check(self, benchmark, asked):
            raise ValueError(f"measure={self.name}: {len(asked)} questions of benchmark={benchmark.name} say nothing")

    with pytest.raises(ValueError, match="measure=again: 10 questions of benchmark=tofu say nothing"):
        Questions(TOFU, "forget05", (Never(),)).check()
