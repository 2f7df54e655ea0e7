"""What a model can still do: zero-shot tasks and WikiText perplexity as FLAT (arXiv 2410.11143) measured them.

Evaluation only: nothing here is learned or forgotten, and any model may be asked. Tasks are those of lm-evaluation-harness; their
rows come from the Hub as its task files say, from local files (data/files/utility.py), or from the fixture.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from lm_eval.api.task import Task
from omegaconf import DictConfig

from data.benchmarks.harness import PACKAGED, EngineLM, evaluate_task, load_task
from data.files.utility import TASK_FILES, task_rows
from metrics.benchmarks.utility import UtilityMetrics
from utils.distributed import main_first
from utils.engine.engine import Engine
from utils.items.benchmark import EvaluationOnly, Metrics
from utils.items.requests import Request
from utils.reading import DataError
from utils.shared_work import kept_rows
from utils.tokens.prompts import Encoder

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
        if isinstance(self.tasks, str):
            raise ValueError(f"benchmark.tasks={self.tasks}: write a list, as in 'benchmark.tasks=[piqa,arc_easy]'")
        for task in self.tasks:
            if task not in TASKS:
                close = difflib.get_close_matches(str(task), TASKS, 1, 0.5)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(TASKS)}"
                raise ValueError(f"benchmark.tasks: {task} is no task of this benchmark; {hint}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"benchmark.tasks={list(self.tasks)}: name one task or more, each of them once")
        least = {
            "limit": (self.limit, 1, True),
            "num_fewshot": (self.num_fewshot, 0, False),
            "max_length": (self.max_length, 2, True),
        }
        for key, (value, smallest, may_be_null) in least.items():
            if value is None and may_be_null:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                null = "null, or " if may_be_null else ""
                raise ValueError(f"benchmark.{key}={value}: write {null}a whole number from {smallest}")
        if self.num_fewshot and self.data_root != "hub":
            raise ValueError(
                f"benchmark.num_fewshot={self.num_fewshot}: examples come from training splits, which data_root={self.data_root} "
                "does not have; use data_root=hub, or benchmark.num_fewshot=0"
            )

    def requests(self, split: str) -> list[Request]:
        """None: the harness asks, in `enrich`. Its tasks are made here, so that bad data are refused before a model is loaded."""
        self.check_forget_split(split)
        _ = self._loaded
        return []

    def enrich(self, generations: list[dict], engine: Engine, encoder: Encoder, folder: Path, cfg: DictConfig) -> list[dict]:
        """Adds one row per document, as harness.py gives it, task by task; what is in parts/ is not asked again."""
        lm = EngineLM(engine, encoder.tokenizer, cfg.tokens_per_batch, self.max_length)
        rows = list(generations)
        for name in self.tasks:
            evaluate = partial(evaluate_task, lm, self._loaded[name], self.limit)
            rows += kept_rows(folder / "parts" / f"{name}.jsonl", evaluate)
        return rows

    @cached_property
    def _loaded(self) -> dict[str, Task]:
        return {name: self._load(name) for name in self.tasks}

    def _load(self, name: str) -> Task:
        if self.data_root != "hub":
            return load_task(name, task_rows(str(self.data_root), name), TASK_FILES[name].split)
        try:
            with main_first():
                return load_task(name, num_fewshot=self.num_fewshot)
        except (OSError, ValueError) as error:
            raise DataError(
                f"data_root=hub: the data of task {name} cannot be fetched ({type(error).__name__}); give data_root=DIR with "
                f"DIR/{TASK_FILES[name].file}, leave the task out of benchmark.tasks, or use data_root=fixture"
            ) from error
