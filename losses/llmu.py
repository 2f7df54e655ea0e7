"""LLMU: ascend on the forget answer, learn a template answer, stay close to the original model on retain data.

    L = w_f (-CE(x_f, y_f)) + w_e CE(x_f, y_e) + w_r KLr,   CE = mean over all answer tokens; KLr: losses/retain.py

Source: LLMU, arXiv 2310.10683, in the form that FLAT (arXiv 2410.11143) compares with: a refusal as y_e. LLMU's own
released code learns five random answers per prompt instead, averages CE per sequence first, and what it calls KL is a
cross-entropy against the reference distribution, over all positions of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from losses.retain import KLSpan, check_retain, retain_needs, with_retain
from utils.checks import not_negative
from utils.engine.loss import LossOutput, Needs, neg_log_likelihood
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class LLMU(KLSpan):
    """Raises ValueError for a negative weight or an unknown retain term or span."""

    forget_weight: float = 0.5
    template_weight: float = 1.0
    retain: str = "kl"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(forget_weight=self.forget_weight, template_weight=self.template_weight)
        check_retain(self.retain, self.retain_weight)

    @property
    def needs(self) -> Needs:
        return {"forget": ("logp",), "template": ("logp",), **retain_needs(self.retain)}

    def __call__(self, forget: TokenTable, template: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        forget_nll, template_nll = neg_log_likelihood(forget), neg_log_likelihood(template)
        loss = self.template_weight * template_nll - self.forget_weight * forget_nll
        parts = {"forget_nll": forget_nll, "template_nll": template_nll}
        return with_retain(loss, parts, self.retain, self.retain_weight, retain)
