"""What a probe is: the same evaluation, asked in another way. The probes: data/probes.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from utils.items.benchmark import Benchmark
from utils.items.requests import Request


class Probe(Protocol):
    """Probes inherit from it. `lacks` ends the sentence "benchmark=... " where a probe has nothing to change."""

    name: str
    lacks: ClassVar[str]

    def request(self, request: Request, benchmark: Benchmark) -> Request:
        """The request under the probe; unchanged where the probe has no meaning."""

    def requests(self, requests: Sequence[Request], benchmark: Benchmark) -> list[Request]:
        """All of them, in order: those of the benchmark, of its measures, or for its retain oracle."""
        return [self.request(request, benchmark) for request in requests]

    def check(self, benchmark: Benchmark, asked: Sequence[Request]) -> None:
        """Raises ValueError if nothing of what the benchmark asks changes: its numbers would pass for what they are not."""
        if self.requests(asked, benchmark) == list(asked):
            raise ValueError(f"probe={self.name}: benchmark={benchmark.name} {self.lacks}; use probe=none")


@dataclass(frozen=True)
class Unchanged(Probe):
    """Asks as the benchmark does."""

    name: str = "none"

    lacks: ClassVar[str] = ""

    def request(self, request: Request, benchmark: Benchmark) -> Request:
        return request
