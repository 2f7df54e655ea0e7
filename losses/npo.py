"""Negative preference optimisation: DPO with only the rejected side, a bounded form of gradient ascent.

    L = -(2 / beta) mean_b log sigmoid(beta (NLL_theta(y_f) - NLL_ref(y_f))) + w_r R,   NLL = sum over the answer tokens

R: losses/retain.py (none: NPO, nll: NPO-RT, kl: NPO-KL). At theta = ref its gradient is that of -NLL, gradient ascent.
Source: NPO, arXiv 2404.05868. FLAT's released code lists an NPO with KL but has no branch for it. MUSE's released code
averages raw logit differences over the vocabulary instead of NLL: losses/muse_released.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from losses.retain import KLSpan, check_retain, retain_needs, with_retain
from utils.checks import positive
from utils.engine.loss import LossOutput, Needs
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class NPO(KLSpan):
    """NPO and its variants with a retain term.

    Raises ValueError for a beta of 0 or below, an unknown retain term or span, or a weight below 0.
    """

    beta: float = 0.1
    retain: str = "none"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)
        check_retain(self.retain, self.retain_weight)

    @property
    def needs(self) -> Needs:
        return {"forget": ("logp", "reference_logp"), **retain_needs(self.retain)}

    def __call__(self, forget: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        forgotten = forget.sum("reference_logp") - forget.sum("logp")  # (B,) nats, NLL_theta - NLL_ref
        loss = -2 / self.beta * forget.batch_mean(logsigmoid(self.beta * forgotten))
        parts = {"npo": loss, "forgotten": forget.batch_mean(forgotten)}
        return with_retain(loss, parts, self.retain, self.retain_weight, retain)
