"""SimNPO: NPO without a reference model, with the NLL of each answer divided by its length.

    L = w_f (-(2 / beta) mean_b log sigmoid(beta (NLL_theta(y_f) / n - delta))) + w_r R,   n = number of answer tokens

w_f is gamma and w_r is alpha in the paper's code; R: losses/retain.py, CE on retain by default.
Source: SimNPO, arXiv 2410.07163, in the form of its released code and of open-unlearning, which agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from losses.retain import KLSpan, check_retain, retain_needs, with_retain
from utils.checks import not_negative, positive
from utils.engine.loss import LossOutput, Needs
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class SimNPO(KLSpan):
    """Defaults are the released values for TOFU forget10.

    Raises ValueError for a beta of 0 or below, a negative delta or weight, or an unknown retain term or span.
    """

    beta: float = 4.5
    delta: float = 0.0
    forget_weight: float = 0.125
    retain: str = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)
        not_negative(delta=self.delta, forget_weight=self.forget_weight)
        check_retain(self.retain, self.retain_weight)

    @property
    def needs(self) -> Needs:
        return {"forget": ("logp",), **retain_needs(self.retain)}

    def __call__(self, forget: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        nll = -forget.mean("logp")  # (B,) nats per token
        loss = -2 / self.beta * forget.batch_mean(logsigmoid(self.beta * (nll - self.delta)))
        parts = {"simnpo": loss, "forget_nll": forget.batch_mean(nll)}
        return with_retain(self.forget_weight * loss, parts, self.retain, self.retain_weight, retain)
