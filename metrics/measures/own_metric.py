"""A number of the user's own: a function in a file, from a question, its true answer and the model's own answer to a number.

    <name of the function>_<task>       its mean over the answers of each task

    def politeness(question: str, truth: str, generation: str) -> float: ...

It is read when numbers are computed, so that rescore=true takes a corrected function without asking the model again.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metrics.tables import by_question, mean_over
from utils.checks import first_line, is_number, require
from utils.evaluation.measure import Measure
from utils.fingerprint import file_hash
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric
from utils.items.requests import Request
from utils.items.saved import Row, Saved

Rated = Callable[[str, str, str], float]
PLACE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z]\w*)")
TAKES = ("question", "truth", "generation")


@dataclass(frozen=True)
class OwnMetric(Measure):
    """of: FILE.py:NAME. Raises ValueError for anything else, and for a file that holds no such function of three texts."""

    name: str
    of: str

    def __post_init__(self) -> None:
        fits = isinstance(self.of, str) and PLACE.fullmatch(self.of) is not None
        require(
            fits, f"measure.{self.name}.of", self.of, "FILE.py:NAME of a function from (question, truth, generation) to a number"
        )
        self.load()

    def load(self) -> Rated:
        """The function. Raises ValueError if the file cannot be run, or has no such function."""
        place = PLACE.fullmatch(self.of)
        assert place is not None
        path, key = Path(place["file"]).expanduser(), f"measure.{self.name}.of={self.of}"
        if not path.is_file():
            raise ValueError(f"{key}: there is no file {path}; write the path of one")
        spec = importlib.util.spec_from_file_location(f"measured_by_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever stands in a file of the user's
            raise ValueError(f"{key}: cannot be run ({type(error).__name__}: {first_line(error)}); mend the file") from error
        found = vars(module).get(place["name"])
        if not callable(found) or len(inspect.signature(found).parameters) != len(TAKES):
            raise ValueError(f"{key}: {path} holds no function {place['name']}({', '.join(TAKES)}); write one")
        return found

    def check(self, benchmark: Benchmark, asked: Sequence[Request]) -> None:
        """Raises ValueError if the benchmark asks for no answers."""
        if not any(request.truth is not None for request in asked):
            raise self.unfit(benchmark, "asks for no answers of the model's own, which the function would rate")

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """The mean of each task. Raises ValueError naming the row for which the function fails, or gives no number."""
        rated = self.load()
        path, _, name = self.of.rpartition(":")
        words = f"mean {name} of the model's own answers, as {Path(path).name} ({file_hash(Path(path).expanduser())[:8]}) has it"
        metrics = {}
        tasks = dict.fromkeys(row["task"] for row in saved.generations if "generation" in row)
        for task in tasks:
            rows = [row for row in saved.rows(task) if "generation" in row]
            values = by_question([self._value(rated, name, row) for row in rows], rows)
            metrics[f"{name}_{task}"] = mean_over(values, f"{words}; task {task}", saved.resamples, task)
        return metrics

    def _value(self, rated: Rated, name: str, row: Row) -> float:
        where = f"measure.{self.name}.of={self.of}: task {row['task']}, row {row['index'] + 1}"
        try:
            value = rated(row["question"], row["truth"], row["generation"])
        except Exception as error:  # as in load
            raise ValueError(f"{where}: {name} fails ({type(error).__name__}: {first_line(error)}); mend the function") from error
        if not (isinstance(value, bool) or is_number(value)):
            raise ValueError(f"{where}: {name} gives {value!r}, which is no number; mend the function")
        return float(value)
