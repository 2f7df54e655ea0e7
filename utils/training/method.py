"""A method: a loss, and what it may do besides: make its own streams of the data, choose the parameters that train, stop early,
change the weights afterwards. One file of config/method describes one; most have only a loss.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from utils.checks import choose, flag, is_number, require
from utils.engine.engine import KERNELS_WITHOUT_MASK, Engine
from utils.engine.loss import Loss, check_needs, parts_of
from utils.files import resolve
from utils.items.benchmark import Benchmark
from utils.items.rows import QA
from utils.items.streams import Prepare
from utils.reading import read_lines
from utils.tokens.prompts import Encoder
from utils.training.spans import NOTHING_AT_PADDING

TRAIN, TEMPLATE = "train", "template"  # streams that more than the loss has to know of


class Region(Protocol):
    """Chooses the parameters that train; the others keep their values and get no optimizer state."""

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Raises ValueError for what can be seen to be wrong before a model is loaded."""

    def choose(
        self, engine: Engine, encoder: Encoder, benchmark: Benchmark, split: str, seed: int, folder: Path
    ) -> Collection[str]:
        """Names of parameters, as `engine.model.named_parameters()` gives them.

        encoder: prompts as finetune.py writes them, in which the answers were learnt. folder: the run's.
        """


class Finish(Protocol):
    """Makes the result of a run from what was trained."""

    def check(self, start: str, adapter: str, snapshots: int | str) -> None:
        """Raises ValueError for what can be seen to be wrong before a model is loaded. start: `model.path`."""

    def __call__(self, original: Path, trained: Path, out: Path) -> None:
        """original: the model folder that training started from. trained: what came of it, a model or an adapter folder.

        Writes the folder `out`, which appears only when it is whole. Called again after an interruption.
        """


@dataclass(frozen=True)
class Templates:
    """Answers that the forget questions get in place of the true ones.

    kind: refusal (lines of a file) | normal (true answers to retain questions: they sound right and say nothing about the forget
    set). policy: per_access (drawn anew in every epoch) | fixed. Raises ValueError for other values.
    """

    kind: str
    policy: str

    def __post_init__(self) -> None:
        choose("kind", self.kind, ("refusal", "normal"))
        choose("policy", self.policy, ("per_access", "fixed"))

    def check(self, refusals: str) -> None:
        """Raises ValueError if refusals are to be read from a file that is not there."""
        there = self.kind != "refusal" or resolve(refusals).is_file()
        require(there, "refusals", refusals, "the name of a text file that exists, one refusal per line")

    def answers(self, refusals: str, retain: Sequence[QA]) -> list[str]:
        """All that may be drawn. Raises DataError for a file that cannot be read."""
        return read_lines(resolve(refusals)) if self.kind == "refusal" else [pair.answer for pair in retain]


@dataclass(frozen=True)
class Stop:
    """Training ends after the first step in which the loss's part `part` was at least `above`; None: never.

    Raises ValueError for another value of `above`.
    """

    part: str
    above: float | None

    def __post_init__(self) -> None:
        require(self.above is None or is_number(self.above), "above", self.above, "a number, or null to never stop")


@dataclass(frozen=True)
class Method:
    """A method as config/method describes it; a part is None where it has none.

    prepare: makes the streams. region: chooses what trains. finish: makes the result of what was trained. templates: there if the
    loss reads template answers. stop: when training ends early. reference_dropout: dropout is on in the reference too, so that
    its values change at every step. Raises ValueError for parts that do not fit each other, and for a flag that is none.
    """

    name: str
    loss: Loss
    prepare: Prepare | None = None
    region: Region | None = None
    finish: Finish | None = None
    templates: Templates | None = None
    stop: Stop | None = None
    reference_dropout: bool = False

    def __post_init__(self) -> None:
        check_needs(self.loss.needs)
        flag("method.reference_dropout", self.reference_dropout)
        if TEMPLATE in self.loss.needs and self.templates is None:
            raise ValueError("method.templates=null: the loss reads template answers; write {kind: refusal, policy: per_access}")
        made = set(self.loss.needs) - {TRAIN, TEMPLATE, "forget", "retain"}
        if made and self.prepare is None:
            raise ValueError(f"method.prepare=null: the loss reads {', '.join(sorted(made))}, which only a prepare node makes")
        if TEMPLATE not in self.loss.needs and self.templates is not None:
            raise ValueError("method.templates: the loss reads no template answers; leave templates out")
        if self.stop is not None:
            choose("method.stop.part", self.stop.part, parts_of(self.loss))

    @property
    def needs_retain(self) -> bool:
        """Whether it reads rows that are kept."""
        return bool({"retain", "normal"} & {*self.loss.needs}) or (self.templates is not None and self.templates.kind == "normal")

    @property
    def memorises(self) -> bool:
        """Whether it teaches a split, as finetune.py does, instead of unlearning one."""
        return TRAIN in self.loss.needs

    def template_answers(self, refusals: str, retain: Sequence[QA]) -> list[str]:
        """What template answers are drawn from; nothing where the loss reads none. refusals: the file of them."""
        return [] if self.templates is None else self.templates.answers(refusals, retain)

    def check(self, cfg: DictConfig, benchmark: Benchmark) -> None:
        """Raises ValueError for what can be seen to be wrong with the other settings before a model is loaded."""
        if self.templates is not None:
            self.templates.check(cfg.refusals)
        if self.reference_dropout and cfg.reference == "cached":
            raise ValueError(
                "reference=cached: with method.reference_dropout=true the reference's values change at every step; use "
                "reference=auto, or method.reference_dropout=false"
            )
        if any(span.pads for span in self.loss.spans.values()) and cfg.model.attn in KERNELS_WITHOUT_MASK:
            raise ValueError(f"model.attn={cfg.model.attn}: {NOTHING_AT_PADDING}")
        if self.region is not None:
            self.region.check(benchmark, str(cfg.split))
        if self.finish is not None:
            if cfg.launcher.name != "auto":
                raise ValueError(
                    f"launcher={cfg.launcher.name}: method={self.name} changes weights afterwards; use launcher=auto"
                )
            self.finish.check(cfg.model.path, cfg.adapter.name, cfg.snapshots)
