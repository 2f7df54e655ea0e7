"""KnowUnDo's baselines and MemFlex: ascent on forget answers, and descent on retain answers in the same batch.

    L = (1 / n) (- w_f sum_f CE(f) + w_r sum_r R(r)),   n = forget and retain samples of the optimizer step together
    CE(s) = mean over the answer tokens of sample s of -log p_theta
    R = 0, CE(r), or D(r) = mean over r's positions of KL(p_ref || p_theta)

In TOFU's form each side has a mean of its own; here an update weighs them as they happen to be mixed
(data/prepare/mixed_batches.py).

Source: KnowUnDo, arXiv 2407.01920; weights are those of its released code, which reports H(p_ref, p_theta) in place of KL (the
same gradient, another value: `retain_divergence`) and adds 1e-12 to every probability of p_theta before its logarithm; that is
left out. Its descent on other labels is losses/nll.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from losses.retain import KLSpan, check_retain, retain_needs, retain_values
from utils.checks import choose, not_negative, require
from utils.engine.loss import LossOutput, Needs
from utils.engine.table import TokenTable

DIVERGENCES = {"paper": "kl", "knowundo": "cross_entropy"}


@dataclass(frozen=True)
class AscentPlusDescent(KLSpan):
    """gradient_ascent (retain none), ascent_plus_descent and memflex (nll), ascent_plus_kl_divergence (kl).

    retain_divergence: what kl reports, paper (KL) or knowundo (H); where it looks: `kl_span`. Raises ValueError for an
    unknown term, a weight below 0, or a span of a term that needs labels.
    """

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    retain: str = "nll"
    retain_divergence: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(forget_weight=self.forget_weight)
        check_retain(self.retain, self.retain_weight)
        choose("retain_divergence", self.retain_divergence, DIVERGENCES)
        fits = self.kl_span == "paper" or self.retain == "kl"
        require(fits, "kl_span", self.kl_span, "paper; only retain=kl looks beyond the answer")

    @property
    def needs(self) -> Needs:
        return {"forget": ("logp",), **retain_needs(self.retain, DIVERGENCES[self.retain_divergence])}

    def __call__(self, forget: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        nll = -forget.mean("logp")  # (B_f,) nats per token
        parts = {"forget_nll": forget.batch_mean(nll)}
        if self.retain == "none":
            return LossOutput(-self.forget_weight * parts["forget_nll"], parts)
        name, retain, values = retain_values(self.retain, retain, DIVERGENCES[self.retain_divergence])
        term = retain.mean(values)  # (B_r,)
        parts[name] = retain.batch_mean(term)
        # A step may be all of one kind: its count of the other is 0, and not the 1 that means are divided by.
        samples = forget.examples + retain.examples
        return LossOutput((self.retain_weight * term.sum() - self.forget_weight * nll.sum()) / samples, parts)
