"""What SKU and LLMU read in every step: questions with their own answers and with others, and normal rows.

    forget       the question with its own answer: learnt by SKU, forgotten by LLMU
    mismatched   the same question with answers from a pool, drawn once per optimizer step for all of its questions
    normal       an everyday row, of which only the model's distribution counts

By default (form paper) the answer's tokens are supervised and nothing else, and the questions of every epoch are shuffled. The
released code of SKU (arXiv 2402.10058) and LLMU (arXiv 2310.10683) does the same as each other (form sku or llmu):

    forget       the prompt is counted with its trailing space, so most first answer tokens carry no loss; no EOS
    mismatched   every token from the fourth on is supervised, those of the question too
    normal       every position of the row counts, BOS too, padded to the longest row of the step, and the padding too
    order        questions in file order, no more of them than there are normal rows, and no normal row twice in a pass
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from utils.checks import choose, whole
from utils.draws import draw, generator, permutation
from utils.engine.engine import Engine
from utils.items.rows import QA
from utils.items.streams import Drawn, Streams, TrainingData
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder

log = logging.getLogger(__name__)

NAMES = ("forget", "mismatched", "normal")
POOLS = ("harmful", "normal", "forget", "retain")
FORMS = ("paper", "sku", "llmu")
UNSUPERVISED = 3  # released code means the length of the prompt, but takes the number of the tokenizer's outputs, 2


@runtime_checkable
class HasAnswerPools(Protocol):
    """A benchmark that brings answers to be drawn at random."""

    def answer_pool(self, kind: str) -> list[str]:
        """All of kind harmful or normal; duplicates stay."""
        ...


@dataclass(frozen=True)
class MismatchedAnswers:
    """The `prepare` node of sku and llmu_published.

    pool: where mismatched answers come from. harmful, normal: the benchmark's pool, or the retain answers if it has none. forget,
    retain: answers of that split. answers: how many each question gets per step. batch_size: items of a step, which form=paper
    does not read. Raises ValueError for an option that is none.
    """

    pool: str = "harmful"
    answers: int = 5
    form: str = "paper"
    batch_size: int = 1

    def __post_init__(self) -> None:
        choose("method.prepare.pool", self.pool, POOLS)
        choose("method.prepare.form", self.form, FORMS)
        whole("method.prepare.answers", self.answers, 1)
        whole("method.prepare.batch_size", self.batch_size, 1)

    def __call__(self, data: TrainingData) -> MismatchedStreams:
        """Raises ValueError for a stream that is not made here, a pool that is too small, or no normal rows."""
        if not set(data.names) <= set(NAMES):
            raise ValueError(f"method.prepare: makes {', '.join(NAMES)}; the loss reads {', '.join(data.names)}")
        if "normal" in data.names and not data.retain:
            raise ValueError("the loss needs stream normal, but there is no data for it")
        pool = self._pool(data) if "mismatched" in data.names else []
        made = MismatchedStreams if self.form == "paper" else ReleasedStreams
        return made(data.names, data.items, data.encoder, data.seed, how=self, pool=pool, normal=data.retain)

    def _pool(self, data: TrainingData) -> list[str]:
        if self.pool in ("harmful", "normal") and isinstance(data.benchmark, HasAnswerPools):
            pool = data.benchmark.answer_pool(self.pool)
        else:
            pool = [row.answer for row in (data.items if self.pool == "forget" else data.retain)]
        if self.form == "paper":
            pool = [answer for answer in pool if answer.strip()]
        if len(pool) < self.answers:
            raise ValueError(f"method.prepare.answers={self.answers}: there are {len(pool)} to draw from; ask for fewer")
        return pool


@dataclass
class MismatchedStreams(Streams):
    """The paper's form. pool: answers, duplicates and all. normal: everyday pairs."""

    how: MismatchedAnswers = field(default_factory=MismatchedAnswers)
    pool: Sequence[str] = ()
    normal: Sequence[QA] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.normal = self.usable_normal() if "normal" in self.names else ()
        if "normal" in self.names and not self.normal:
            raise ValueError(f"no normal row is left: all prompts fill max_length={self.encoder.max_length}; raise it")
        self.answers_of = lru_cache(maxsize=4)(self._answers_of)

    def draw(self, epoch: int, index: int, step: int = 0) -> Drawn:
        item = self.items[index]
        drawn: Drawn = {"forget": (self.encode(item),)}
        if "mismatched" in self.names:
            drawn["mismatched"] = tuple(self.mismatched(item, answer) for answer in self.answers_of(step))
        if "normal" in self.names:
            drawn["normal"] = (self.normal_row(epoch, index, step),)
        return {name: drawn[name] for name in self.names}

    def _answers_of(self, step: int) -> list[str]:
        """Answers for all questions of optimizer step `step`: without replacement, a question's own not excepted."""
        return generator("mismatched", self.seed, step).sample(self.pool, self.how.answers)

    def mismatched(self, item: QA, answer: str) -> Example:
        return self.encode(item.answered(answer))

    def usable_normal(self) -> list[QA]:
        """The normal rows that can be read."""
        return self.fitting(self.normal)

    def normal_row(self, epoch: int, index: int, step: int) -> Example:
        """The normal row of item `index`, drawn anew in every epoch."""
        row = self.normal[draw(self.seed, epoch, index, "normal", len(self.normal))]
        return self.encode(row)


@dataclass
class ReleasedStreams(MismatchedStreams):
    """As in released code. Raises ValueError for prompts that it is not defined for, and for padding that stands in texts too."""

    def __post_init__(self) -> None:
        self.text = lru_cache(maxsize=None)(self._text)
        self.encoder, self.whole = _released(self.encoder, self.how.form)
        if "normal" in self.names:
            if len(self.items) > len(self.normal):
                log.warning(
                    "form=%s: of %d questions only the first %d are read", self.how.form, len(self.items), len(self.normal)
                )
            self.items = self.items[: len(self.normal)]
        super().__post_init__()
        if "normal" in self.names:
            # Answers of the pool, which may be many, are searched as text.
            rows = (self.text(row.question, row.answer) for row in (*self.items, *self.normal))
            self.check_padding(rows, self.pool, f"method.loss.form={self.how.form}", "method.loss.form=paper")
        self.pass_order = lru_cache(maxsize=4)(self._pass_order)

    def order(self, epoch: int) -> list[int]:
        return list(range(len(self)))

    def ready(self, engine: Engine, folder: Path) -> ReleasedStreams:
        """Has the engine hide padding tokens, and write one pair per line, so that the model counts positions itself.

        Raises ValueError for an attention kernel that leaves padding out altogether.
        """
        if "normal" in self.names:
            self.hide_padding(engine, f"method.loss.form={self.how.form}", "method.loss.form=paper")
            engine.shared = False
        return self

    def usable_normal(self) -> list[QA]:
        return list(self.normal)

    def mismatched(self, item: QA, answer: str) -> Example:
        # Released code reads the question back from the tokens of its row, between two marks.
        ids = self.text(item.question.split("###")[0].split("Question:")[-1].strip(), answer)
        return Example(ids[:UNSUPERVISED], ids[UNSUPERVISED:])

    def normal_row(self, epoch: int, index: int, step: int) -> Example:
        """The row padded to the longest of its step. Behind the last position comes a token that is never fed."""
        ids = self._normal_ids(epoch, index)
        first, size = step * self.how.batch_size, self.how.batch_size
        others = [self._normal_ids(*divmod(place, len(self))) for place in range(first, first + size)]
        width = max(map(len, [ids, *others]))
        return Example(ids[:1], ids[1:] + (self.encoder.pad_id,) * (width - len(ids) + 1))

    def _normal_ids(self, epoch: int, index: int) -> tuple[int, ...]:
        row = self.normal[self.pass_order(epoch)[index]]
        return self.text(row.question, row.answer)

    def _pass_order(self, epoch: int) -> list[int]:
        return permutation(self.seed, epoch, len(self.normal))

    def _text(self, question: str, answer: str) -> tuple[int, ...]:
        """Ids of question and answer as one text; an answer may be blank."""
        if not answer.strip():
            return self.encoder.generation_prompt(question)
        example = self.whole.example(question, answer)
        return example.prompt + example.answer


def _released(encoder: Encoder, form: str) -> tuple[Encoder, Encoder]:
    """Two encoders without EOS: one that counts the prompt with its trailing space, one that takes any text."""
    if encoder.compat not in ("none", "open_unlearning"):
        raise ValueError(f"compat={encoder.compat}: method.loss.form={form} counts prompts in its own way; use compat=none")
    if encoder.template.kind == "chat":
        raise ValueError(f"method.loss.form={form}: is defined for template.kind=plain; use method.loss.form=paper")
    template = replace(encoder.template, eos=False, supervise_tag=False)
    return replace(encoder, template=template, compat="open_unlearning"), replace(encoder, template=template, compat="none")
