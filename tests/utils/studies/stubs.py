"""Cells for tests that run a line of Python instead of a training, and the study that they seem to belong to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.studies.cells import Cell
from utils.studies.runner import BEHIND, Order
from utils.studies.study import Study

STUDY = Study("stub", "A study for tests", rows={"npo": {"method": "npo"}})


@dataclass(frozen=True)
class Stub(Cell):
    """A cell whose command is `code`, run by Python in the folder of the study."""

    code: str = "pass"

    def command(self, again: bool = False) -> list[str]:
        return ["python", "-S", "-c", self.code, *(["overwrite=true"] if again else [])]


def stub(pool: Path, name: str, code: str, processes: int = 1) -> Stub:
    return Stub(name, "unlearn", {}, pool / name, (), STUDY.entries["npo"], 0, processes=processes, code=code)


def order(
    pool: Path, name: str, code: str | Sequence[str], slots: Sequence[str] = (), takes: int = 1, gpus: bool = False
) -> Order:
    command = ["python", "-S", "-c", code] if isinstance(code, str) else list(code)
    behind = pool / BEHIND
    behind.mkdir(parents=True, exist_ok=True)
    made = Order(name, command, str(pool), str(behind), slots, takes, gpus, "launch")
    made.write()
    return made


def ends(pool: Path) -> Mapping[str, dict]:
    """How the cells of a pool ended, by the name of their folder."""
    return {path.stem: json.loads(path.read_text()) for path in (pool / BEHIND).glob("*.json")}


def wait_until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)
