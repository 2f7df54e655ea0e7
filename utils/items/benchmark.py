"""What the scripts ask of a benchmark. config/benchmark/<name>.yaml names the class; no script and no utility does.

Benchmarks inherit from `Benchmark`: what it defines is what most of them do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn, Protocol, TypeVar

from utils.checks import choose
from utils.items.metric import Metric
from utils.items.requests import Request
from utils.items.rows import QA
from utils.items.saved import Metrics, Row

if TYPE_CHECKING:  # metrics are computed from files without a model
    from utils.engine.engine import Engine
    from utils.engine.generation import Released
    from utils.tokens.prompts import Encoder, Template

T = TypeVar("T")


class Benchmark(Protocol):
    """Data of one benchmark. Methods raise ValueError for unknown splits and DataError for bad rows."""

    name: str
    data_root: str
    """Where its files are: fixture, hub, or a folder."""
    split: str
    """The forget split that scripts start with."""
    forget_splits: tuple[str, ...]
    """The splits that can be forgotten."""
    kept: ClassVar[str]
    """The split that is kept when another is forgotten, unless `retain_split` says otherwise."""
    max_new_tokens: int
    metrics: Metrics
    """Its own numbers."""
    statistics: ClassVar[tuple[str, ...]] = ("logp", "hit")
    """What is scored for each answer token: names of utils/engine/token_statistics.py."""
    forgotten: ClassVar[tuple[str, ...]] = ()
    """Tasks about what is to be forgotten."""
    members: ClassVar[tuple[str, str] | None] = None
    """Task whose answers were trained on, and task of such answers that never were: what membership attacks tell apart."""

    harmless: ClassVar[tuple[str, ...]] = ("retain",)
    """Beginnings of splits that hold nothing of what can be forgotten: who learned such splits alone is a retain oracle."""
    compats: ClassVar[tuple[str, ...]] = ("none", "tofu_original", "open_unlearning", "flat_released")
    """Values of compat that mean something here."""
    compares: ClassVar[str] = "forget quality compares with"
    """What needs a retain oracle, as the beginning of a sentence."""
    needs_oracle: ClassVar[bool] = True
    """Whether an evaluation without an oracle must say so; else what compares with one is left out."""
    asks_before: ClassVar[bool] = False
    """Whether an evaluation also asks the model that was unlearned, unless `before` says otherwise."""
    least_nulls: ClassVar[int] = 0
    """How many oracles of other seeds `metrics` needs to place the model among them; 0: it has no such place."""

    def prompts(self, script: str, template: Template, max_length: int) -> tuple[Template, int]:
        """How questions are written in finetune, unlearn or evaluate: as the model's template says, or in the benchmark's way."""
        return template, max_length

    @property
    def lacks_retain(self) -> str:
        """What to do for a method that needs rows to keep, where there are none; "" where there are some."""
        return ""

    @property
    def extras(self) -> Sequence[Extra]:
        """What the numbers need and no request can ask for, in this order. Most benchmarks need nothing."""
        return ()

    def from_logs(self, log: Path, oracle_log: Path | None, compat: str, resamples: int) -> dict[str, Metric]:
        """Its numbers from logs of its original code. Raises ValueError where none are read, and for files that are none."""
        raise ValueError(
            f"from_logs={log}: benchmark={self.name} reads no logs of other code; evaluate the model with model.path=DIR"
        )

    def check_forget_split(self, split: str) -> None:
        """Raises ValueError unless `split` can be forgotten."""
        choose("split", split, self.forget_splits)

    def retain_split(self, split: str) -> str:
        """The split that is kept when `split` is forgotten."""
        self.check_forget_split(split)
        return self.kept

    def oracle_split(self, split: str) -> str:
        """The split that a retain oracle learns: mostly the retain split."""
        return self.retain_split(split)

    def training(self, split: str) -> list[QA]:
        """The pairs of one split, or of several joined by +."""

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

    def requests(self, split: str) -> list[Request]:
        """Everything that is evaluated when `split` is forgotten. Reads the data; an evaluation asks once."""

    def subject(self, task: str, index: int) -> str | None:
        """Whom or what question `index` of a task is about, where others are about the same; None: it stands alone.

        What is right about one author is not independent of what else is, so subjects are drawn as a whole where differences get
        an interval. Known from the order of the data, so that scores are read without them; subjects of two tasks that cannot be
        told to be the same have different names.
        """
        return None

    def oracle_requests(self, asked: Sequence[Request]) -> list[Request]:
        """What must be asked of the retain oracle too, of what `requests` gave; nothing if no metric compares with it. Where a
        request has a truth, the oracle's own answer comes along, as `generation` beside the scores of role `answer`."""
        return []


class EvaluationOnly(Benchmark):
    """A benchmark that any model may be asked: nothing is learned or forgotten, and its one split is `all`."""

    SPLIT: ClassVar[str] = "all"
    forget_splits: ClassVar[tuple[str, ...]] = (SPLIT,)
    kept: ClassVar[str] = SPLIT

    def retain_split(self, split: str = SPLIT) -> NoReturn:
        """Raises ValueError: nothing is learned. So do the other two members that say what is."""
        raise ValueError(f"benchmark={self.name}: is for evaluation only; choose another benchmark to finetune or unlearn with")

    training = general_knowledge = retain_split


@dataclass(frozen=True)
class Resources:
    """What an evaluation hands over to whoever must run the model by himself, or ask others about what it said.

    requests: what the benchmark asks, in its own words. folder: of the evaluation; what takes long is kept there, to go on from.
    adapter: makes the engine of the evaluated model with its adapter apart, which `engine` has merged into the weights; raises
    ValueError if there is none.
    """

    engine: Engine
    encoder: Encoder
    benchmark: Benchmark
    requests: Sequence[Request]
    folder: Path
    seed: int
    tokens_per_batch: int
    generation_batch_size: int
    adapter: Callable[[], Engine]


Extra = Callable[[list[Row], Resources], list[Row]]
"""Rows of generations.jsonl -> the same in the same order, each a new row if there is more in it, then those that are added: a
judge's verdict, gradients, another library's tasks. It sees the benchmark's rows and its own measure's, as which added ones
count. Called on every process."""


def joined(split: str, valid: Sequence[str], full: Sequence[str] = ("full",)) -> list[str]:
    """The splits of `a+b`, with those that `full` stands for. Raises ValueError for a name that is none of `valid`, or stands
    there twice."""
    parts = str(split).split("+")
    for part in parts:
        choose("split", part, valid)
    names = [name for part in parts for name in (full if part == "full" else [part])]
    check_no_overlap(split, {name: names.count(name) > 1 for name in names})
    return names


def check_no_overlap(split: str, repeated: Mapping[str, bool]) -> None:
    """Raises ValueError for the first part of a joined split whose rows another part holds too."""
    for name, is_repeated in repeated.items():
        if is_repeated:
            raise ValueError(f"split={split}: the rows of {name} would be read twice; name no part that lies in another")


def limited(items: Sequence[T], most: int | str | None) -> Sequence[T]:
    """The first so many; all and null: all of them."""
    return items if most in ("all", None) else items[: int(most)]
