"""What a loss is: a function of token tables that says which streams and statistics it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from utils.checks import choose, require
from utils.engine.table import TokenTable
from utils.engine.token_statistics import REFERENCE_LOGP, STATISTICS, Asked, Statistic, name_of, need_reference_logits

STREAMS = {
    "train": "question and answer to memorise (finetune.py)",
    "forget": "forget question and its true answer",
    "template": "forget question and its template answer: a refusal, or a normal unrelated answer",
    "relabelled": "forget question and answer, with another token to be predicted in place of each",
    "inverted": "forget question and answers that contradict the true one, several for each question",
    "mismatched": "forget question and answers to other questions, several for each question",
    "retain": "a retain question and its answer, drawn anew for every forget item and epoch",
    "normal": "an everyday question and its answer, of which only the model's distribution counts",
}

Needs = Mapping[str, Sequence[Asked]]
"""Stream -> its statistics: names of utils/engine/token_statistics.py, `reference_logp`, or statistics that the loss brings."""


@dataclass(frozen=True)
class Span:
    """Where distributions are compared with the reference's, if not at the answer tokens: at every position of a row.

    Released code does so where it applies no mask: prompt, answer and padding count alike, the position after the last token too.
    length: text (no padding), longest (the longest row of the micro-batch), max_length (the encoder's), or tokens.
    filler: what padding is written with, pad | eos. A row's last tokens that are this token are padding.
    """

    length: Literal["text", "longest", "max_length"] | int
    filler: Literal["pad", "eos"] = "pad"

    @property
    def pads(self) -> bool:
        return self.length != "text"


@dataclass(frozen=True)
class LossOutput:
    """loss: scalar to minimise. parts: named scalars that are logged, reduced like the loss (they add up over micro-batches)."""

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Loss(Protocol):
    """Called with one token table per stream of `needs`, by name.

    Every mean over examples or tokens goes through the table (`batch_mean`, `token_mean`), so that the sum over micro-batches
    and processes is the loss of the undivided batch. A loss for which that is impossible says `micro_batch_dependent = True`.
    A table may have no rows: what a step holds of a stream can lie in another micro-batch.

    repels: streams that the method moves away from: their answers get less likely, or their distribution leaves the
    reference; all others it moves towards.
    spans: streams whose rows are looked at beyond the answers. Statistics that read the reference's distribution then lie in
    `rows` of the stream's table.
    """

    repels: ClassVar[tuple[str, ...]] = ("forget",)

    @property
    def needs(self) -> Needs: ...

    @property
    def micro_batch_dependent(self) -> bool:
        return False

    @property
    def spans(self) -> Mapping[str, Span]:
        return {}

    def __call__(self, *args: Any, **streams: Any) -> LossOutput: ...


def rows_of(stream: str) -> str:
    """The name under which the engine knows the rows of a stream with a span."""
    return f"{stream} rows"


def engine_needs(loss: Loss) -> Needs:
    """What the engine is asked: `needs`, with what belongs to a span asked of the rows instead of the answers."""
    asked_of: dict[str, Sequence[Asked]] = {}
    for stream, asked in loss.needs.items():
        compared = tuple(one for one in asked if stream in loss.spans and need_reference_logits([one]))
        others = tuple(one for one in asked if one not in compared)
        asked_of |= {name: kind for name, kind in ((stream, others), (rows_of(stream), compared)) if kind}
    return asked_of


def loss_tables(loss: Loss, tables: Mapping[str, TokenTable]) -> dict[str, TokenTable]:
    """The tables of `engine_needs` as the loss gets them. A stream that is asked for nothing at its answers is its rows."""
    found = {}
    for stream in loss.needs:
        rows = tables.get(rows_of(stream))
        found[stream] = replace(tables[stream if stream in tables else rows_of(stream)], rows=rows)
    return found


def check_needs(needs: Needs) -> None:
    """Raises ValueError for an unknown stream or statistic, and for one that the loss brings under a name that is taken."""
    for stream, asked in needs.items():
        choose("stream", stream, STREAMS)
        for one in asked:
            if not isinstance(one, Statistic):
                choose("statistic", one, (*STATISTICS, REFERENCE_LOGP))
        names = [name_of(one) for one in asked]
        for one in asked:
            taken = isinstance(one, Statistic) and (one.name in (*STATISTICS, REFERENCE_LOGP) or names.count(one.name) > 1)
            require(not taken, "statistic", name_of(one), "another name for what the loss brings; this one is taken")


def parts_of(loss: Loss) -> tuple[str, ...]:
    """Names of what a loss logs, `loss` first. No loss lists them, so it is asked about one answer token of each stream."""
    one, tables = torch.ones(1, 1), {}
    for stream, asked in loss.needs.items():
        tables[stream] = TokenTable(one.bool(), {name_of(each): -one for each in asked}, 1.0, 1.0, one[0].long())
    return "loss", *loss(**tables).parts


def neg_log_likelihood(table: TokenTable) -> Tensor:
    """Token mean of -log p over the whole step: the cross-entropy that causal language models report."""
    return -table.token_mean("logp")
