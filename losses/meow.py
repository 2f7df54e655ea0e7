"""MEOW: plain cross-entropy on answers that contradict the true one, several for each forget question.

    L = w CE(x_f, y_inverted) + w_kl KL(p_ref || p_theta)(x_f, y_inverted) + w_r R,   CE = mean over all answer tokens of the step

Source: MEOW, arXiv 2409.11844; the paper's body was not available to us, so this is the form of its released code. The method
is w = 1 alone. Its code has two more: w = 0.9 with R = CE on retain answers and w_r = 0.1 (grad_diff), and w_kl = 1 (forgetKL),
there averaged over prompt and padding too (`kl_span`: losses/retain.py). Which facts a question gets: data/prepare/meow.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from losses.retain import KLSpan, check_retain, mean_kl, retain_needs, with_retain
from utils.checks import not_negative
from utils.engine.loss import LossOutput, Needs, neg_log_likelihood
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class MEOW(KLSpan):
    """Rows of `inverted`: every question as often as it has training sequences. Raises ValueError for a bad option."""

    weight: float = 1.0
    kl_weight: float = 0.0
    retain: str = "none"
    retain_weight: float = 0.1
    padded_length: int = field(default=200, kw_only=True)  # max_length of the released script

    repels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(weight=self.weight, kl_weight=self.kl_weight)
        check_retain(self.retain, self.retain_weight)

    @property
    def needs(self) -> Needs:
        statistics = ("logp", "kl") if self.kl_weight else ("logp",)
        return {"inverted": statistics, **retain_needs(self.retain)}

    def __call__(self, inverted: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        nll = neg_log_likelihood(inverted)
        loss, parts = self.weight * nll, {"inverted_nll": nll}
        if self.kl_weight:
            parts["inverted_kl"] = mean_kl(inverted)
            loss = loss + self.kl_weight * parts["inverted_kl"]
        return with_retain(loss, parts, self.retain, self.retain_weight, retain)
