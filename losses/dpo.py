"""DPO as unlearning: prefer the template answer y_e to the forget answer y_f, relative to a frozen reference.

    L = -c mean_b log sigmoid(beta [(s(y_e) - s(y_f)) - (s_ref(y_e) - s_ref(y_f))]) + w_r R
    s(y) = sum over the answer tokens of log p;   c = 2 / beta or 1;   R: losses/retain.py

c is 2 / beta where NPO and FLAT compare with DPO, 1 in DPO itself (arXiv 2305.18290) and in TOFU's released code.
Source: NPO, arXiv 2404.05868; FLAT, arXiv 2410.11143. Length-normalised and reference-free it is SimPO, arXiv 2405.14734. FLAT's
released code overwrites the reference difference with 0, so that it is reference-free too; TOFU's own branch cannot run.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from losses.retain import KLSpan, check_retain, retain_needs, with_retain
from utils.checks import choose, flag, positive
from utils.engine.loss import LossOutput, Needs
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class DPO(KLSpan):
    """Row b of `forget` and of `template` answer the same question. Raises ValueError for a bad option."""

    beta: float = 0.1
    factor: str = "two_over_beta"
    reference_free: bool = False
    length_normalised: bool = False
    retain: str = "none"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)
        choose("factor", self.factor, ("two_over_beta", "one"))
        flag("reference_free", self.reference_free)
        flag("length_normalised", self.length_normalised)
        check_retain(self.retain, self.retain_weight)

    @property
    def needs(self) -> Needs:
        statistics = ("logp",) if self.reference_free else ("logp", "reference_logp")
        return {"forget": statistics, "template": statistics, **retain_needs(self.retain)}

    def __call__(self, forget: TokenTable, template: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        gap = self._score(template) - self._score(forget)  # (B,) nats
        factor = 2 / self.beta if self.factor == "two_over_beta" else 1.0
        loss = -factor * forget.batch_mean(logsigmoid(self.beta * gap))
        parts = {"dpo": loss, "gap": forget.batch_mean(gap)}
        return with_retain(loss, parts, self.retain, self.retain_weight, retain)

    def _score(self, table: TokenTable) -> Tensor:
        reduce = table.mean if self.length_normalised else table.sum
        return reduce("logp") if self.reference_free else reduce("logp") - reduce("reference_logp")
