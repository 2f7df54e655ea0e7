"""Data of the user's own: what must leave a model, and whatever else there is. Nothing but the forget file is needed.

Splits: forget, retain (what is kept; retain=general: other texts stand for it), holdout (never learned), full = forget + retain;
`a+b` joins splits. Questions with answers, conversations and running text are read from whatever holds them (data/files/own.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from data.files.own import OwnRow, check_fields, read_own
from data.files.sources import FIXTURES
from metrics.benchmarks.own import FORGET, GENERAL, HOLDOUT, RETAIN, OwnMetrics
from utils.checks import several, whole, whole_or
from utils.items.benchmark import Benchmark, Extra, Resources, joined, limited
from utils.items.requests import Request, beginning
from utils.items.rows import QA, Text
from utils.items.saved import Metrics, Row
from utils.reading import DataError

log = logging.getLogger(__name__)

SPLITS = ("full", FORGET, RETAIN, HOLDOUT)
SHIPPED = {FORGET: "forget.jsonl", RETAIN: "retain.csv", HOLDOUT: "holdout.json"}
SMALL_SUITE = ("arc_easy", "piqa", "winogrande")
GIVEN = 0.5  # of a passage, in its evaluation


@dataclass(frozen=True)
class Own(Benchmark):
    """The benchmark as configured in config/benchmark/own.yaml, which says what each option is."""

    name: str
    data_root: str
    forget: str | None = None
    retain: str | None = None
    holdout: str | None = None
    general: str | None = None
    fields: Mapping[str, str] | None = None
    split: str = FORGET
    words: int = 200
    rows: int | str = 300
    forget_rows: int | str = "all"
    max_new_tokens: int = 128
    utility: str | Sequence[str] = "auto"
    utility_limit: int = 200
    metrics: Metrics = field(default_factory=OwnMetrics)

    forget_splits: ClassVar[tuple[str, ...]] = (FORGET,)
    kept: ClassVar[str] = RETAIN
    forgotten: ClassVar[tuple[str, ...]] = (FORGET,)
    members: ClassVar[tuple[str, str]] = (FORGET, HOLDOUT)
    statistics: ClassVar[tuple[str, ...]] = ("logp", "hit", "entropy", "logp_variance")
    compats: ClassVar[tuple[str, ...]] = ("none",)
    compares: ClassVar[str] = "forget quality and PrivLeak compare with"
    needs_oracle: ClassVar[bool] = False
    asks_before: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self.fields or {})
        whole("benchmark.words", self.words, 8)
        whole("benchmark.max_new_tokens", self.max_new_tokens, 1)
        whole("benchmark.utility_limit", self.utility_limit, 1)
        whole_or("benchmark.rows", self.rows, "all")
        whole_or("benchmark.forget_rows", self.forget_rows, "all")
        if self.utility not in ("auto", "none"):
            several("benchmark.utility", self.utility, _tasks())
        if self.retain == GENERAL and self.general is None:
            raise ValueError("benchmark.retain=general: name the texts or instructions that are meant: benchmark.general=FILE")
        if self.forget is None and self.data_root != "fixture":
            raise ValueError("benchmark.forget=null: name the file that holds what must be forgotten: benchmark.forget=FILE")

    @property
    def lacks_retain(self) -> str:
        """What to do where a method needs rows to keep."""
        if self._source(RETAIN) is not None:
            return ""
        return (
            "name rows to keep with benchmark.retain=FILE, or benchmark.retain=general benchmark.general=FILE for any texts or "
            "instructions that the model should go on knowing"
        )

    def training(self, split: str) -> list[QA]:
        """Pairs of one split, or of several joined by +; none of a split without a file, other than forget's.

        Raises ValueError for an unknown split, DataError for files that are missing or bad, or say one thing in two splits.
        """
        return [row.pair for name in joined(split, SPLITS, full=(FORGET, RETAIN)) for row in self._rows(name)]

    def general_knowledge(self) -> list[QA]:
        """None: a model from random weights learns its rows and nothing else."""
        return []

    def requests(self, split: str) -> list[Request]:
        """Tasks forget, retain, holdout and general, as far as there are files. Roles: answer, and where the rows have them
        paraphrased and perturbed 0, 1, ... as TOFU has them. Of running text the first half is given."""
        self.check_forget_split(split)
        found = []
        for task in (FORGET, RETAIN, HOLDOUT, GENERAL):
            rows = self._rows(task)
            most = self.forget_rows if task == FORGET else self.rows
            if wrong := {len(row.perturbed_answer) for row in rows} - {0}:
                _check_wrong(rows, max(wrong))
            found += [_request(task, place, rows[place]) for place in _spread(len(rows), most)]
        return found

    def with_question(self, request: Request, edit: Callable[[str], str]) -> Request:
        """As it is for running text, which asks nothing."""
        return request if request.bare else super().with_question(request, edit)

    def oracle_requests(self, asked: Sequence[Request]) -> list[Request]:
        """Tasks forget and holdout: the truth ratios that forget quality compares, and what guessing gives."""
        return [request for request in asked if request.task in self.members]

    @property
    def extras(self) -> Sequence[Extra]:
        return () if self.utility == "none" else (self.add_utility,)

    def add_utility(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds the verdicts of a few tasks of lm-evaluation-harness; with utility=auto, of those whose data can be had."""
        from data.benchmarks.utility import Utility  # loads lm_eval, which nothing else here needs

        names = SMALL_SUITE if self.utility == "auto" else tuple(self.utility)
        for name in names:
            suite = Utility("utility", self.data_root, tasks=[name], limit=self.utility_limit)
            try:
                suite.requests(suite.split)
            except DataError as error:
                if self.utility != "auto":
                    raise
                log.info("utility: %s is left out: %s", name, error)
                continue
            rows = suite.add_verdicts(rows, resources)
        return rows

    def _rows(self, name: str) -> tuple[OwnRow, ...]:
        source = self._source(name)
        if source is None:
            return ()
        key = f"benchmark.{GENERAL if source == self.general else name}"
        rows = read_own(key, source, self.fields or {}, self.words)
        if name != FORGET:
            _check_apart(self._rows(FORGET), rows, name)
        return rows

    def _source(self, name: str) -> str | None:
        named = {FORGET: self.forget, RETAIN: self.retain, HOLDOUT: self.holdout, GENERAL: self.general}[name]
        if named == GENERAL and name == RETAIN:
            return self.general
        if self.forget is None and named is None and name in SHIPPED:
            return str(FIXTURES / self.name / SHIPPED[name])
        return named


def _tasks() -> Sequence[str]:
    from data.benchmarks.utility import TASKS  # as in add_utility

    return TASKS


def _check_apart(forget: Sequence[OwnRow], rows: Sequence[OwnRow], name: str) -> None:
    """Raises DataError for a row that is to be forgotten and is kept, or was never learned."""
    places = {row.pair: row.place for row in forget}
    both = [row for row in rows if row.pair in places]
    if both:
        first = both[0]
        why = "nothing can be forgotten and kept" if name != HOLDOUT else "what is to be forgotten was learned"
        more = f" ({len(both)} rows are in both)" if len(both) > 1 else ""
        raise DataError(f"{first.place}: is also {places[first.pair]}{more}; {why}: remove it from one of the two")


def _check_wrong(rows: Sequence[OwnRow], count: int) -> None:
    for row in rows:
        if len(row.perturbed_answer) != count:
            raise DataError(
                f"{row.place}: has {len(row.perturbed_answer)} wrong answers, another row of the file has {count}; give all rows "
                "as many"
            )


def _spread(count: int, most: int | str) -> list[int]:
    """Places of at most so many of `count` rows, evenly spread."""
    kept = len(limited(range(count), most))
    return [place * count // kept for place in range(kept)] if kept else []


def _request(task: str, index: int, row: OwnRow) -> Request:
    pair = row.pair
    if isinstance(pair, Text):
        question = beginning(pair.answer, GIVEN)
        rest = pair.answer[len(question) :]
        return Request(task, index, question, (("answer", 0, rest),), rest.strip(), bare=True)
    answers = [("answer", 0, pair.answer)]
    if row.perturbed_answer:
        answers.append(("paraphrased", 0, row.paraphrased_answer or pair.answer))
        answers += [("perturbed", number, text) for number, text in enumerate(row.perturbed_answer)]
    request = Request(task, index, pair.question, tuple(answers), pair.answer, before=pair.before)
    return replace(request, paraphrase=row.paraphrased_question)
