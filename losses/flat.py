"""FLAT: loss adjustment with only forget data. Teaches a template answer y_e, un-teaches the forget answer y_f.

    L = -mean_b [g*(P(y_e)) - f*(g*(P(y_f)))],   P(y) = (1 / |y|) sum_i p_theta(y_i | x, y_<i)
    P is a mean of probabilities, not of their logs;   g*, f*: losses/divergences.py

Source: FLAT, arXiv 2410.11143. The released code divides the sum by the padded length minus 1 (`p_norm: padded`),
averages P over the micro-batch before g* and f* (`p_batch: pooled`), and reverses signs in three experimental
divergences (`variant: released`). Under pooled the value depends on the micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.divergences import DIVERGENCES, divergence
from utils.checks import choose
from utils.engine.loss import Loss, LossOutput
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class Flat(Loss):
    """padded_length counts tokens of prompt, answer and padding; only `p_norm: padded` reads it.

    Raises ValueError for an unknown option or a padded_length that is not a whole number above 1.
    """

    divergence: str = "tv"
    p_norm: str = "answer"
    p_batch: str = "per_example"
    padded_length: int = 500
    variant: str = "correct"

    needs: ClassVar[dict[str, tuple[str, ...]]] = {"forget": ("logp",), "template": ("logp",)}

    def __post_init__(self) -> None:
        choose("divergence", self.divergence, DIVERGENCES)
        choose("p_norm", self.p_norm, ("answer", "padded"))
        choose("p_batch", self.p_batch, ("per_example", "pooled"))
        choose("variant", self.variant, ("correct", "released"))
        if not isinstance(self.padded_length, int) or self.padded_length < 2:
            raise ValueError(f"padded_length={self.padded_length}: write a whole number from 2")

    @property
    def micro_batch_dependent(self) -> bool:
        return self.p_batch == "pooled"

    def __call__(self, forget: TokenTable, template: TokenTable) -> LossOutput:
        chosen = divergence(self.divergence, self.variant)
        p_e, p_f = self._probability(template), self._probability(forget)  # (B,) each
        loss = self._reduce(forget, chosen.forget_term, p_f) - self._reduce(template, chosen.template_term, p_e)
        return LossOutput(loss, {"template_probability": template.batch_mean(p_e), "forget_probability": forget.batch_mean(p_f)})

    def _probability(self, table: TokenTable) -> Tensor:
        length = table.length if self.p_norm == "answer" else self.padded_length - 1
        return table.sum(table["logp"].exp()) / length

    def _reduce(self, table: TokenTable, term: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
        return term(p.mean()) * table.share if self.p_batch == "pooled" else table.batch_mean(term(p))
