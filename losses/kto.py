"""Kahneman-Tversky optimisation: forget answers are undesirable, template answers desirable; no pairs are compared.

    L = w_u mean_b (1 - sigmoid(z - beta r_f)) + w_d mean_b (1 - sigmoid(beta r_e - z))
    r = log p_theta(y) - log p_ref(y), summed over the answer;   z = beta max(0, mean_b r_e), without gradient

z is the point from which gain and loss are felt. Source: KTO, arXiv 2402.01306, equation 8. There z comes from answers to other
questions; template answers are drawn without looking at the question, so they serve (reference_point: template), or z is left out
(zero). MEOW's released trainer lists KTO as a baseline, but its branch fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from utils.checks import choose, not_negative, positive
from utils.engine.loss import Loss, LossOutput, Needs
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class KTO(Loss):
    """Raises ValueError for a beta of 0 or below, a negative weight or an unknown reference point."""

    beta: float = 0.1
    forget_weight: float = 1.0
    template_weight: float = 1.0
    reference_point: str = "template"

    needs: ClassVar[Needs] = {"forget": ("logp", "reference_logp"), "template": ("logp", "reference_logp")}

    def __post_init__(self) -> None:
        positive("beta", self.beta)
        not_negative(forget_weight=self.forget_weight, template_weight=self.template_weight)
        choose("reference_point", self.reference_point, ("template", "zero"))

    @property
    def micro_batch_dependent(self) -> bool:
        return self.reference_point == "template"

    def __call__(self, forget: TokenTable, template: TokenTable) -> LossOutput:
        undesired, desired = self._gain(forget), self._gain(template)  # (B,) nats
        z = undesired.new_zeros(()) if self.reference_point == "zero" else self._point(desired)
        forget_loss = forget.batch_mean(1 - torch.sigmoid(z - self.beta * undesired))
        template_loss = template.batch_mean(1 - torch.sigmoid(self.beta * desired - z))
        loss = self.forget_weight * forget_loss + self.template_weight * template_loss
        return LossOutput(loss, {"forget_loss": forget_loss, "template_loss": template_loss})

    def _gain(self, table: TokenTable) -> Tensor:
        return table.sum("logp") - table.sum("reference_logp")

    def _point(self, desired: Tensor) -> Tensor:
        return self.beta * desired.detach().mean().clamp(min=0)
