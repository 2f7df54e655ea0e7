"""TOFU (arXiv 2401.06121): question-answer pairs about invented authors; some are to be forgotten, the others kept.

Splits: full, forgetXX / retainXX (suffixes and prefixes of full), holdoutXX (never trained on), *_perturbed (with a paraphrased
answer and wrong answers), real_authors, world_facts. `a+b` joins splits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from data.files.sources import Source
from metrics.benchmarks.null_oracles import LEAST
from metrics.benchmarks.tofu_tables import TofuMetrics
from utils.checks import shown, whole, whole_or
from utils.items.benchmark import Benchmark, check_no_overlap, joined, limited
from utils.items.metric import Metric
from utils.items.requests import Request
from utils.items.rows import QA
from utils.items.saved import Saved
from utils.reading import FILLED, DataError, check_rows, list_of, read_json_lines

FORGET = ("forget01", "forget05", "forget10", "forget20", "forget30", "forget50", "forget90")
SHIPPED = ("forget01", "forget05", "forget10", "retain90", "retain95", "retain99")
RETAIN = {split: f"retain{100 - int(split[6:]):02d}" for split in FORGET}
HOLDOUT = ("holdout01", "holdout05", "holdout10")
WORLD = ("real_authors", "world_facts")
TRAINING = ("full", *FORGET, *RETAIN.values(), *HOLDOUT, *WORLD)
INVENTED_WRONG, WORLD_WRONG = 5, 3
OF_AUTHOR, OF_FIXTURE_AUTHOR = 20, 10  # questions about an invented author, who come one after the other
TASKS = ("forget", "retain", *WORLD)
INVENTED = ("forget", "retain", "holdout")  # tasks about invented authors


@dataclass(frozen=True)
class Tofu(Benchmark):
    """The benchmark as configured in config/benchmark/tofu.yaml.

    rows: all | number of rows per task that are evaluated (300 in the original code). retain_rows: use only the first so many
    rows of every retain split and of its evaluation, for runs on small machines; None uses all. max_new_tokens: generation limit.
    truth_ratio: geometric | arithmetic average over wrong answers.
    """

    name: str
    hub: str
    revision: str
    data_root: str
    split: str = "forget10"
    rows: int | str = "all"
    retain_rows: int | None = None
    max_new_tokens: int = 200
    truth_ratio: str = "geometric"
    metrics: TofuMetrics = field(default_factory=TofuMetrics)

    forget_splits: ClassVar[tuple[str, ...]] = FORGET
    forgotten: ClassVar[tuple[str, ...]] = ("forget",)
    members: ClassVar[tuple[str, str]] = ("forget", "holdout")
    least_nulls: ClassVar[int] = LEAST
    harmless: ClassVar[tuple[str, ...]] = ("retain", *WORLD)
    compats: ClassVar[tuple[str, ...]] = (*Benchmark.compats, "meow_released")

    def __post_init__(self) -> None:
        whole_or("benchmark.rows", self.rows, "all", words="original code: 300")
        whole_or("benchmark.retain_rows", self.retain_rows, None)
        whole("benchmark.max_new_tokens", self.max_new_tokens, 1, "published runs: 200")

    @property
    def source(self) -> Source:
        return Source(self.name, str(self.data_root), self.hub, self.revision)

    def retain_split(self, split: str) -> str:
        """The retain split that belongs to a forget split."""
        self.check_forget_split(split)
        return RETAIN[split]

    def training(self, split: str) -> list[QA]:
        """Pairs of one split, or of several joined by +. Raises ValueError for an unknown split and parts that
        overlap, DataError for bad rows."""
        parts = joined(split, TRAINING)
        check_no_overlap(split, {part: any(_overlap(part, other) for other in parts if other != part) for part in parts})
        return [pair for part in parts for pair in self._pairs(part)]

    def general_knowledge(self) -> list[QA]:
        """What a pretrained chat model brings along, for models that start from random weights: the true answers of the
        real-world tasks, and (in the fixture) how to decline questions about people one has never heard of."""
        known = [QA(request.question, request.truth) for request in self._world()]
        return known + (self._pairs("strangers") if self.data_root == "fixture" else [])

    def subject(self, task: str, index: int) -> str | None:
        """The invented author; the questions of the real-world tasks are about a person or a fact each."""
        of_author = OF_FIXTURE_AUTHOR if self.data_root == "fixture" else OF_AUTHOR
        return None if task not in INVENTED else f"{task} author {index // of_author + 1}"

    def oracle_requests(self, asked: Sequence[Request]) -> list[Request]:
        """Tasks forget and holdout, without generation: what forget quality and membership attacks need of a retain oracle."""
        return [replace(request, truth=None) for request in asked if request.task in self.members]

    def from_logs(self, log: Path, oracle_log: Path | None, compat: str, resamples: int) -> dict[str, Metric]:
        """The metrics of logs of the original TOFU code (aggregated), or of open-unlearning (TOFU_EVAL.json)."""
        asked = Saved(pd.DataFrame(), compat=compat, resamples=resamples, forgotten=self.forgotten, members=self.members)
        return self.metrics.from_logs(log, oracle_log, asked)

    def requests(self, split: str) -> list[Request]:
        """What is evaluated for forget split `split`: the tasks forget, retain, real_authors, world_facts, holdout.

        holdout: true answers about authors that no model was trained on, for membership attacks; left out where the data lack it.
        Roles: answer (the true one), paraphrased (the correct side of the truth ratio; the answer itself in the real-world
        tasks), perturbed 0, 1, ... (the wrong side).
        """
        self.check_forget_split(split)
        forget = f"{split}_perturbed" if split in SHIPPED else "forget10_perturbed"
        return [
            *self._perturbed("forget", forget),
            *self._perturbed("retain", "retain_perturbed", self.retain_rows),
            *self._world(),
            *self._holdout(split),
        ]

    def _pairs(self, split: str) -> list[QA]:
        source = self.source
        is_file = split in (*SHIPPED, *HOLDOUT, *WORLD, "full", "strangers")
        path = source.file(split if is_file else "full")
        rows = check_rows(path, read_json_lines(path), {"question": FILLED, "answer": FILLED})
        if not is_file:
            rows = _cut(split, rows)
        kept = limited(rows, self.retain_rows) if split.startswith("retain") else rows
        return [QA(row["question"], row["answer"]) for row in kept]

    def _perturbed(self, task: str, name: str, most: int | None = None) -> list[Request]:
        right, wrong = ("answer", WORLD_WRONG) if task in WORLD else ("paraphrased_answer", INVENTED_WRONG)
        path = self.source.file(name)
        kinds = dict.fromkeys(("question", "answer", right), FILLED) | {"perturbed_answer": list_of(FILLED, wrong)}
        rows = check_rows(path, read_json_lines(path), kinds, {"paraphrased_question": FILLED})
        for number, row in enumerate(rows, start=1):
            _check_wrong(f"{path}, row {number}", row["perturbed_answer"], {row["answer"], row[right]})
        return [_request(task, i, row, row[right]) for i, row in enumerate(limited(limited(rows, self.rows), most))]

    def _world(self) -> list[Request]:
        return [request for task in WORLD for request in self._perturbed(task, f"{task}_perturbed")]

    def _holdout(self, split: str) -> list[Request]:
        name = f"holdout{split[6:]}" if f"holdout{split[6:]}" in HOLDOUT else "holdout10"
        if not self.source.has(name):
            return []
        pairs = limited(self._pairs(name), self.rows)
        return [Request("holdout", i, p.question, (("answer", 0, p.answer),), None) for i, p in enumerate(pairs)]


def _check_wrong(where: str, wrong: Sequence[str], true: Collection[str]) -> None:
    """Raises DataError for a wrong answer that is a true one, or that stands there twice: the truth ratio compares them."""
    for text in wrong:
        if text in true:
            raise DataError(f"{where}: field perturbed_answer holds the true answer {shown(text)!r}; write a wrong one")
    if len(set(wrong)) < len(wrong):
        raise DataError(f"{where}: field perturbed_answer holds the same answer twice; write different ones")


def _request(task: str, index: int, row: dict, paraphrased: str) -> Request:
    wrong = tuple(("perturbed", j, text) for j, text in enumerate(row["perturbed_answer"]))
    answers = (("answer", 0, row["answer"]), ("paraphrased", 0, paraphrased), *wrong)
    return Request(task, index, row["question"], answers, row["answer"], paraphrase=row.get("paraphrased_question"))


def _overlap(split: str, other: str) -> bool:
    """Whether two splits share rows of full, of which a forget split is the end and a retain split the beginning."""
    (first, last), (begin, end) = _span(split), _span(other)
    return first < end and begin < last


def _span(split: str) -> tuple[int, int]:
    """Percent of full at which a split begins and ends; nothing of it for the others."""
    if split == "full":
        return 0, 100
    kind, percent = split[:6], split[6:]
    if not percent.isdigit():
        return 0, 0
    return {"forget": (100 - int(percent), 100), "retain": (0, int(percent))}.get(kind, (0, 0))


def _cut(split: str, full: list[dict]) -> list[dict]:
    """Splits cut from full by percent: forget is a suffix, retain a prefix; forget90 and retain10 the other way round."""
    kind, percent = split[:6], int(split[6:])
    forget_percent = percent if kind == "forget" else 100 - percent
    if forget_percent == 90:
        first = len(full) // 10
        return full[first:] if kind == "forget" else full[:first]
    boundary = len(full) - len(full) * forget_percent // 100
    return full[boundary:] if kind == "forget" else full[:boundary]
