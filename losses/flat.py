"""FLAT: loss adjustment with only forget data. Teaches a template answer y_e, un-teaches the forget answer y_f.

    L = -mean_b [g*(P(y_e)) - f*(g*(P(y_f)))],   P(y) = (1 / |y|) sum_i p_theta(y_i | x, y_<i)
    P is a mean of probabilities, not of their logs;   g*, f*: losses/divergences.py

Source: FLAT, arXiv 2410.11143. Each of three switches takes the released code's way (flat) instead of the paper's: the sum is
divided by the padded length minus 1 (`p_norm`), P is averaged over the micro-batch before g* and f*, so that the value depends
on it (`p_batch`), and signs are reversed in three experimental divergences (`signs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.divergences import DIVERGENCES, divergence
from utils.checks import choose, whole
from utils.engine.loss import Loss, LossOutput, Needs
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class Flat(Loss):
    """padded_length counts tokens of prompt, answer and padding; only `p_norm: flat` reads it.

    Raises ValueError for an unknown option or a padded_length that is not a whole number from 2.
    """

    divergence: str = "tv"
    p_norm: str = "paper"
    p_batch: str = "paper"
    padded_length: int = 500
    signs: str = "paper"

    needs: ClassVar[Needs] = {"forget": ("logp",), "template": ("logp",)}

    def __post_init__(self) -> None:
        choose("divergence", self.divergence, DIVERGENCES)
        for name, value in {"p_norm": self.p_norm, "p_batch": self.p_batch, "signs": self.signs}.items():
            choose(name, value, ("paper", "flat"))
        whole("padded_length", self.padded_length, 2)

    @property
    def micro_batch_dependent(self) -> bool:
        return self.p_batch == "flat"

    def __call__(self, forget: TokenTable, template: TokenTable) -> LossOutput:
        chosen = divergence(self.divergence, self.signs)
        p_e, p_f = self._probability(template), self._probability(forget)  # (B,) each
        loss = self._reduce(forget, chosen.forget_term, p_f) - self._reduce(template, chosen.template_term, p_e)
        return LossOutput(loss, {"template_probability": template.batch_mean(p_e), "forget_probability": forget.batch_mean(p_f)})

    def _probability(self, table: TokenTable) -> Tensor:
        length = table.length if self.p_norm == "paper" else self.padded_length - 1
        return table.sum(table["logp"].exp()) / length

    def _reduce(self, table: TokenTable, term: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
        return term(p.mean()) * table.share if self.p_batch == "flat" else table.batch_mean(term(p))
