"""What a model can still do: zero-shot tasks and WikiText perplexity as FLAT (arXiv 2410.11143) measured them.

Evaluation only: nothing here is learned or forgotten, and any model may be asked. Tasks are those of lm-evaluation-harness; their
rows come from the Hub as its task files say, from local files (data/files/utility.py), or from the fixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar

from lm_eval.api.task import Task

from data.benchmarks.harness import PACKAGED, EngineLM, evaluate_task, load_task
from data.files.sources import fetching
from data.files.utility import TASK_FILES, task_rows
from metrics.benchmarks.utility import UtilityMetrics
from utils.checks import several, whole, whole_or
from utils.items.benchmark import EvaluationOnly, Extra, Resources
from utils.items.requests import Request
from utils.items.saved import Metrics, Row
from utils.shared_work import kept_rows

TASKS = tuple(PACKAGED)


@dataclass(frozen=True)
class Utility(EvaluationOnly):
    """The benchmark as configured in config/benchmark/utility.yaml.

    tasks: any of TASKS. limit: only the first so many documents of each task. num_fewshot: examples before each question (from
    training splits, which only data_root=hub has). max_length: tokens of a context or window; None: what the model allows.
    Raises ValueError for an option that is none.
    """

    name: str
    data_root: str
    split: str = EvaluationOnly.SPLIT
    tasks: Sequence[str] = TASKS
    limit: int | None = None
    num_fewshot: int = 0
    max_length: int | None = None
    metrics: Metrics = field(default_factory=UtilityMetrics)

    max_new_tokens: ClassVar[int] = 1  # nothing is generated

    def __post_init__(self) -> None:
        several("benchmark.tasks", self.tasks, TASKS)
        whole_or("benchmark.limit", self.limit, None)
        whole("benchmark.num_fewshot", self.num_fewshot)
        whole_or("benchmark.max_length", self.max_length, None, 2)
        if self.num_fewshot and self.data_root != "hub":
            raise ValueError(
                f"benchmark.num_fewshot={self.num_fewshot}: examples come from training splits, which data_root={self.data_root} "
                "does not have; use data_root=hub, or benchmark.num_fewshot=0"
            )

    def requests(self, split: str) -> list[Request]:
        """None: the harness asks. Its tasks are made here, so that bad data are refused before a model is loaded."""
        self.check_forget_split(split)
        _ = self._loaded
        return []

    @property
    def extras(self) -> Sequence[Extra]:
        return (self.add_verdicts,)

    def add_verdicts(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds one row per document, as harness.py gives it, task by task; what is in parts/ is not asked again."""
        lm = EngineLM(resources.engine, resources.encoder.tokenizer, resources.tokens_per_batch, self.max_length)
        for name in self.tasks:
            evaluate = partial(evaluate_task, lm, self._loaded[name], self.limit)
            rows = rows + kept_rows(resources.folder / "parts" / f"{name}.jsonl", evaluate)
        return rows

    @cached_property
    def _loaded(self) -> dict[str, Task]:
        return {name: self._load(name) for name in self.tasks}

    def _load(self, name: str) -> Task:
        if self.data_root != "hub":
            return load_task(name, task_rows(str(self.data_root), name), TASK_FILES[name].split)
        with fetching(f"the data of task {name}", TASK_FILES[name].file, "leave the task out of benchmark.tasks, "):
            return load_task(name, num_fewshot=self.num_fewshot)
