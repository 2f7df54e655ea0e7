"""TOFU (arXiv 2401.06121): question-answer pairs about invented authors; some are to be forgotten, the others kept.

Splits: full, forgetXX / retainXX (suffixes and prefixes of full), holdoutXX (never trained on), *_perturbed (with a paraphrased
answer and wrong answers), real_authors, world_facts. `a+b` joins splits.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import ClassVar

from data.files.sources import Source, check_rows
from metrics.benchmarks.null_oracles import LEAST
from metrics.benchmarks.tofu_tables import TofuMetrics
from utils.items.benchmark import Benchmark, Metrics
from utils.items.requests import Request
from utils.items.rows import QA
from utils.reading import read_json_lines

FORGET = ("forget01", "forget05", "forget10", "forget20", "forget30", "forget50", "forget90")
SHIPPED = ("forget01", "forget05", "forget10", "retain90", "retain95", "retain99")
RETAIN = {split: f"retain{100 - int(split[6:]):02d}" for split in FORGET}
HOLDOUT = ("holdout01", "holdout05", "holdout10")
WORLD = ("real_authors", "world_facts")
TRAINING = ("full", *FORGET, *RETAIN.values(), *HOLDOUT, *WORLD)
INVENTED_WRONG, WORLD_WRONG = 5, 3
TASKS = ("forget", "retain", *WORLD)


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
    metrics: Metrics = field(default_factory=TofuMetrics)

    forgotten: ClassVar[tuple[str, ...]] = ("forget",)
    members: ClassVar[tuple[str, str]] = ("forget", "holdout")
    least_nulls: ClassVar[int] = LEAST

    def __post_init__(self) -> None:
        if self.rows != "all" and (not isinstance(self.rows, int) or self.rows < 1):
            raise ValueError(f"benchmark.rows={self.rows}: write all, or a number of rows (300 in the original code)")
        if self.retain_rows is not None and (not isinstance(self.retain_rows, int) or self.retain_rows < 1):
            raise ValueError(f"benchmark.retain_rows={self.retain_rows}: write null for all, or a number of rows")
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ValueError(f"benchmark.max_new_tokens={self.max_new_tokens}: write a whole number (published runs: 200)")

    @property
    def source(self) -> Source:
        return Source(self.name, str(self.data_root), self.hub, self.revision)

    def check_forget_split(self, split: str) -> None:
        """Raises ValueError unless `split` is a forget split."""
        _one_of(split, FORGET)

    def retain_split(self, split: str) -> str:
        """The retain split that belongs to a forget split."""
        self.check_forget_split(split)
        return RETAIN[split]

    def training(self, split: str) -> list[QA]:
        """Pairs of one split, or of several joined by +. Raises ValueError for an unknown split, DataError for bad rows."""
        pairs = []
        for part in str(split).split("+"):
            _one_of(part, TRAINING)
            pairs += self._pairs(part)
        return pairs

    def general_knowledge(self) -> list[QA]:
        """What a pretrained chat model brings along, for models that start from random weights: the true answers of the
        real-world tasks, and (in the fixture) how to decline questions about people one has never heard of."""
        known = [QA(r.question, r.truth) for task in WORLD for r in self._world(task)]
        return known + (self._pairs("strangers") if self.data_root == "fixture" else [])

    def oracle_requests(self, split: str) -> list[Request]:
        """Tasks forget and holdout, without generation: what forget quality and membership attacks need of a retain oracle."""
        return [replace(request, truth=None) for request in self.requests(split) if request.task in self.members]

    def requests(self, split: str) -> list[Request]:
        """What is evaluated for forget split `split`: the tasks forget, retain, real_authors, world_facts, holdout.

        holdout: true answers about authors that no model was trained on, for membership attacks; left out where the data lack it.
        Roles: answer (the true one), paraphrased (the correct side of the truth ratio; the answer itself in the real-world
        tasks), perturbed 0, 1, ... (the wrong side).
        """
        self.check_forget_split(split)
        forget = f"{split}_perturbed" if split in SHIPPED else "forget10_perturbed"
        return [
            *self._invented("forget", forget, None),
            *self._invented("retain", "retain_perturbed", self.retain_rows),
            *self._world("real_authors"),
            *self._world("world_facts"),
            *self._holdout(split),
        ]

    def _pairs(self, split: str) -> list[QA]:
        source = self.source
        is_file = split in (*SHIPPED, *HOLDOUT, *WORLD, "full", "strangers")
        path = source.file(split if is_file else "full")
        rows = read_json_lines(path)
        check_rows(path, rows, ("question", "answer"), {})
        if not is_file:
            rows = _cut(split, rows)
        if split.startswith("retain") and self.retain_rows is not None:
            rows = rows[: self.retain_rows]
        return [QA(row["question"], row["answer"]) for row in rows]

    def _invented(self, task: str, name: str, limit: int | None) -> list[Request]:
        path = self.source.file(name)
        rows = read_json_lines(path)
        check_rows(path, rows, ("question", "answer", "paraphrased_answer"), {"perturbed_answer": INVENTED_WRONG})
        limited = self._limited(rows)[:limit]
        return [_request(task, i, row, row["paraphrased_answer"]) for i, row in enumerate(limited)]

    def _world(self, task: str) -> list[Request]:
        path = self.source.file(f"{task}_perturbed")
        rows = read_json_lines(path)
        check_rows(path, rows, ("question", "answer"), {"perturbed_answer": WORLD_WRONG})
        return [_request(task, i, row, row["answer"]) for i, row in enumerate(self._limited(rows))]

    def _holdout(self, split: str) -> list[Request]:
        name = f"holdout{split[6:]}" if f"holdout{split[6:]}" in HOLDOUT else "holdout10"
        if not self.source.has(name):
            return []
        pairs = self._limited(self._pairs(name))
        return [Request("holdout", i, p.question, (("answer", 0, p.answer),), None) for i, p in enumerate(pairs)]

    def _limited(self, rows: list) -> list:
        return rows if self.rows == "all" else rows[: int(self.rows)]


def _request(task: str, index: int, row: dict, paraphrased: str) -> Request:
    wrong = tuple(("perturbed", j, text) for j, text in enumerate(row["perturbed_answer"]))
    answers = (("answer", 0, row["answer"]), ("paraphrased", 0, paraphrased), *wrong)
    return Request(task, index, row["question"], answers, row["answer"], paraphrase=row.get("paraphrased_question"))


def _cut(split: str, full: list[dict]) -> list[dict]:
    """Splits cut from full by percent: forget is a suffix, retain a prefix; forget90 and retain10 the other way round."""
    kind, percent = split[:6], int(split[6:])
    forget_percent = percent if kind == "forget" else 100 - percent
    if forget_percent == 90:
        first = len(full) // 10
        return full[first:] if kind == "forget" else full[:first]
    boundary = len(full) - len(full) * forget_percent // 100
    return full[boundary:] if kind == "forget" else full[:boundary]


def _one_of(split: str, valid: tuple[str, ...]) -> None:
    if split not in valid:
        close = difflib.get_close_matches(str(split), valid, 1, 0.5)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"split={split}: TOFU has {', '.join(valid)}.{hint}")
