"""The retain term that many methods add to their forget term, and where a KL to the reference looks.

    nll: CE(x_r, y_r) = mean over all retain answer tokens of -log p_theta          "gradient descent on retain", RT, GD
    kl:  KLr          = mean over all retain answer tokens of KL(p_ref || p_theta)   forward KL, frozen reference first

Released code averages its KL over every position of the padded batch instead, prompt and padding included, so that its size
depends on the padding (`kl_span`):

    KL = (1 / (B T)) sum_b sum_t KL(p_ref || p_theta),   t = 1 .. T, the position after the last token too

with T the longest row of the micro-batch (open_unlearning), or a fixed length (tofu, flat: 500; meow: 200). Over several
micro-batches it is the mean of their means, each by its share of the examples, as there.

Source: TOFU, arXiv 2401.06121; released code of TOFU, FLAT (arXiv 2410.11143), open-unlearning, MEOW (arXiv 2409.11844) and
KnowUnDo (arXiv 2407.01920). Losses whose paper weighs the same two terms otherwise take `retain_values` and a mean of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from utils.checks import choose, not_negative, whole
from utils.engine.loss import Loss, LossOutput, Needs, Span
from utils.engine.table import TokenTable
from utils.engine.token_statistics import Asked, name_of, need_reference_logits

# Length of rows, and what they are padded with; PADDED_LENGTH: whatever the loss's option says. MUSE's rows are whole passages,
# without prompt and padding: nothing lies outside of its answers.
PADDED_LENGTH = 0
SPANS: dict[str, Span | None] = {
    "paper": None,
    "text": Span("text"),
    "open_unlearning": Span("longest", "pad"),
    "tofu": Span(PADDED_LENGTH, "eos"),
    "flat": Span(PADDED_LENGTH, "eos"),
    "meow": Span(PADDED_LENGTH, "eos"),
    "knowundo": Span("max_length", "pad"),
    "muse": None,
}


@dataclass(frozen=True, kw_only=True)
class KLSpan(Loss):
    """The options of every loss that may hold a KL to the reference, of which they say where it looks: `SPANS`.

    kl_span: paper (answer tokens), text (all tokens), or a code's name (all positions of the padded row); without a KL it has no
    effect. padded_length: tokens of a padded row, read by tofu, flat and meow only. Raises ValueError for another span, or a
    length that is not a whole number from 2.
    """

    kl_span: str = "paper"
    padded_length: int = 500

    def __post_init__(self) -> None:
        choose("kl_span", self.kl_span, SPANS)
        whole("padded_length", self.padded_length, 2)

    @property
    def spans(self) -> Mapping[str, Span]:
        span = SPANS[self.kl_span]
        if span is None:
            return {}
        span = Span(self.padded_length, span.filler) if span.length == PADDED_LENGTH else span
        return {stream: span for stream, asked in self.needs.items() if need_reference_logits(asked)}

    @property
    def micro_batch_dependent(self) -> bool:
        return any(span.length == "longest" for span in self.spans.values())


def check_retain(retain: str, retain_weight: float) -> None:
    """Raises ValueError for an unknown retain term or a weight below 0."""
    choose("retain", retain, ("none", "nll", "kl"))
    not_negative(retain_weight=retain_weight)


def retain_needs(retain: str, divergence: Asked = "kl") -> Needs:
    """What the retain term adds to a loss's `needs`: nothing at all without one. divergence: the statistic that kl averages."""
    return {} if retain == "none" else {"retain": ("logp" if retain == "nll" else divergence,)}


def retain_values(retain: str, table: TokenTable | None, divergence: Asked = "kl") -> tuple[str, TokenTable, Tensor]:
    """Of nll or kl: (name of the part that is logged, the table, (B, T) what the term averages).

    Raises ValueError if the table of the stream retain was not passed.
    """
    if table is None:
        raise ValueError(f"retain={retain} needs the stream retain, which was not passed; use retain=none without it.")
    if retain == "nll":
        return "retain_nll", table, -table["logp"]
    where = table.rows or table
    return f"retain_{name_of(divergence)}", where, where[name_of(divergence)]


def mean_kl(table: TokenTable) -> Tensor:
    """Scalar, nats: mean of the statistic kl over the answer tokens of the step, or over all positions that a span asks for."""
    if table.rows is None:
        return table.token_mean("kl")
    return table.rows.batch_mean(table.rows.mean("kl"))


def with_retain(
    loss: Tensor, parts: Mapping[str, Tensor], retain: str, retain_weight: float, table: TokenTable | None
) -> LossOutput:
    """loss + retain_weight * term, and the unweighted term among the parts as `retain_nll` or `retain_kl`.

    Raises ValueError as `retain_values` does.
    """
    if retain == "none":
        return LossOutput(loss, parts)
    name, where, values = retain_values(retain, table)
    term = mean_kl(table) if retain == "kl" else where.token_mean(values)
    return LossOutput(loss + retain_weight * term, {**parts, name: term})
