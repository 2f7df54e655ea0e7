"""What the scripts ask of a benchmark. config/benchmark/<name>.yaml names the class; no script and no utility does.

Benchmarks inherit from `Benchmark`: what it defines is what most of them do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Protocol

import pandas as pd
from omegaconf import DictConfig

from utils.engine.engine import Engine
from utils.engine.generation import Released
from utils.items.metric import Metric
from utils.items.requests import Request
from utils.items.rows import QA
from utils.tokens.prompts import Encoder, Template


class Metrics(Protocol):
    """From saved files to numbers; calls no model."""

    def from_tables(
        self, scores: pd.DataFrame, generations: Sequence[dict], oracle: pd.DataFrame | None, compat: str, resamples: int
    ) -> dict[str, Metric]:
        """scores, generations: what an evaluation saved. oracle: the retain oracle's scores, or None."""
        ...

    def against_nulls(
        self, scores: pd.DataFrame, oracle: pd.DataFrame, nulls: Sequence[pd.DataFrame], compat: str, resamples: int
    ) -> dict[str, Metric]:
        """Where the benchmark has `least_nulls`: the model placed among oracles of other seeds, whose scores `nulls` are."""
        ...

    def from_logs(self, log: Path, oracle_log: Path | None, compat: str, resamples: int) -> dict[str, Metric]:
        """The same from logs of the benchmark's original code. Raises ValueError for files that are no such logs."""
        ...


class Benchmark(Protocol):
    """Data of one benchmark. Methods raise ValueError for unknown splits and DataError for bad rows."""

    name: str
    data_root: str
    """Where its files are: fixture, hub, or a folder."""
    split: str
    """The forget split that scripts start with."""
    max_new_tokens: int
    metrics: Metrics
    statistics: ClassVar[tuple[str, ...]] = ("logp", "hit")
    """What is scored for each answer token: names of utils/engine/token_statistics.py."""
    forgotten: ClassVar[tuple[str, ...]] = ()
    """Tasks about what is to be forgotten."""
    members: ClassVar[tuple[str, str] | None] = None
    """Task whose answers were trained on, and task of such answers that never were: what membership attacks tell apart."""

    compats: ClassVar[tuple[str, ...]] = ("none", "tofu_original", "open_unlearning", "flat_released")
    """Values of compat that mean something here."""
    compares: ClassVar[str] = "forget quality compares with"
    """What needs a retain oracle, as the beginning of a sentence."""
    least_nulls: ClassVar[int] = 0
    """How many oracles of other seeds `metrics.against_nulls` needs to place the model among them; 0: it has no such place."""

    def prompts(self, script: str, template: Template, max_length: int) -> tuple[Template, int]:
        """How questions are written in finetune, unlearn or evaluate: as the model's template says, or in the benchmark's way."""
        return template, max_length

    def enrich(self, generations: list[dict], engine: Engine, encoder: Encoder, folder: Path, cfg: DictConfig) -> list[dict]:
        """Adds to the rows of generations.jsonl what a request cannot ask for: a judge's verdict, items of another library's
        tasks. Called on every process; may keep files in `folder` to go on from. Most benchmarks need nothing."""
        return generations

    def check_forget_split(self, split: str) -> None: ...

    def retain_split(self, split: str) -> str:
        """The split that is kept when `split` is forgotten."""
        ...

    def oracle_split(self, split: str) -> str:
        """The split that a retain oracle learns: mostly the retain split."""
        return self.retain_split(split)

    def training(self, split: str) -> list[QA]: ...

    def with_question(self, request: Request, edit: Callable[[str], str]) -> Request:
        """The request with its question put in other words; what stands around the question in the prompt stays.

        A benchmark whose requests hold more than the bare question says where it is; without a question nothing changes.
        """
        return replace(request, question=edit(request.question)) if request.question else request

    def released(self, compat: str) -> Released | None:
        """How released code generates, if compat asks for it and it differs from what is right in more than a limit."""
        return None

    def pieces(self, pairs: list[QA], encoder: Encoder) -> list[QA]:
        """What is trained on of the pairs of a split; a benchmark of running text cuts it into passages here."""
        return pairs

    def general_knowledge(self) -> list[QA]:
        """What a model that starts from random weights must learn besides, to have something to lose."""
        ...

    def requests(self, split: str) -> list[Request]:
        """Everything that is evaluated when `split` is forgotten."""
        ...

    def oracle_requests(self, split: str) -> list[Request]:
        """What must be asked of the retain oracle too; empty if no metric compares with it. Where a request has a truth, the
        oracle's own answer comes along, as `generation` beside the scores of role `answer`."""
        ...


class EvaluationOnly(Benchmark):
    """A benchmark that any model may be asked: nothing is learned or forgotten, and its one split is `all`."""

    SPLIT: ClassVar[str] = "all"

    def check_forget_split(self, split: str) -> None:
        """Raises ValueError unless `split` is `all`."""
        if split != self.SPLIT:
            raise ValueError(f"split={split}: {self.name} forgets nothing and has one split, {self.SPLIT}; leave split out")

    def retain_split(self, split: str) -> str:
        """Raises ValueError: nothing is learned."""
        raise self._only_evaluated()

    def training(self, split: str) -> list[QA]:
        """Raises ValueError: nothing is learned."""
        raise self._only_evaluated()

    def general_knowledge(self) -> list[QA]:
        """Raises ValueError: nothing is learned."""
        raise self._only_evaluated()

    def oracle_requests(self, split: str) -> list[Request]:
        """None: nothing is compared with a retain oracle."""
        return []

    def _only_evaluated(self) -> ValueError:
        return ValueError(f"benchmark={self.name}: is for evaluation only; choose another benchmark to finetune or unlearn with")
