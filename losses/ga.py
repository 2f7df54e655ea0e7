"""Gradient ascent on the forget answers, alone or balanced by a retain term.

    L = -w_f CE(x_f, y_f) + w_k KL(x_f, y_f) + w_r R,   R = 0 (GA), CE(x_r, y_r) (GradDiff) or KLr (KL)

CE and KL are means over all answer tokens of the step.

Source: TOFU, arXiv 2401.06121. Released code weighs tokens within each micro-batch only and averages both KL over prompt and
padding as well (`kl_span`: losses/retain.py). The forget term has no lower bound: GA diverges if it runs for long. w_k = 1 is GA
with a KL to the reference on the forget answers, a baseline of MEOW's released trainer (arXiv 2409.11844).
"""

from __future__ import annotations

from dataclasses import dataclass

from losses.retain import KLSpan, check_retain, mean_kl, retain_needs, with_retain
from utils.checks import not_negative
from utils.engine.loss import LossOutput, Needs, neg_log_likelihood
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class GradientAscent(KLSpan):
    """GA (retain none), GradDiff (retain nll) and KL (retain kl).

    Raises ValueError for an unknown retain term or span, or a weight below 0.
    """

    retain: str = "none"
    retain_weight: float = 1.0
    forget_weight: float = 1.0
    forget_kl_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_retain(self.retain, self.retain_weight)
        not_negative(forget_weight=self.forget_weight, forget_kl_weight=self.forget_kl_weight)

    @property
    def needs(self) -> Needs:
        statistics = ("logp", "kl") if self.forget_kl_weight else ("logp",)
        return {"forget": statistics, **retain_needs(self.retain)}

    def __call__(self, forget: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        nll = neg_log_likelihood(forget)
        loss, parts = -self.forget_weight * nll, {"forget_nll": nll}
        if self.forget_kl_weight:
            parts["forget_kl"] = mean_kl(forget)
            loss = loss + self.forget_kl_weight * parts["forget_kl"]
        return with_retain(loss, parts, self.retain, self.retain_weight, retain)
