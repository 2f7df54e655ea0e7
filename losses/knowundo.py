"""KnowUnDo's baselines and MemFlex: ascent on forget answers, and descent on retain answers in the same batch.

    L = (1 / n) (- w_f sum_f CE(f) + w_r sum_r R(r)),   n = forget and retain samples of the optimizer step together
    CE(s) = mean over the answer tokens of sample s of -log p_theta
    R = 0, CE(r), or D(r) = mean over the positions asked for of H(p_ref, p_theta), or of KL(p_ref || p_theta)

In TOFU's form each side has a mean of its own; here an update weighs them as they happen to be mixed
(data/prepare/interleaved.py).

Source: KnowUnDo, arXiv 2407.01920; weights, and H in place of KL (the same gradient, another value), are those of its released
code, which adds 1e-12 to every probability of p_theta before its logarithm; that is left out. The second loss of this file is
plain descent on other labels (data/prepare/relabelled.py), with the same mean over samples of their token means.
"""

from __future__ import annotations

from dataclasses import dataclass

from utils.checks import choose, not_negative
from utils.engine.loss import Loss, LossOutput
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class Interleaved(Loss):
    """gradient_ascent (retain none), ascent_plus_descent and memflex (nll), ascent_plus_kl_divergence (kl).

    retain_divergence: what kl reports. Raises ValueError for an unknown term or a weight below 0.
    """

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    retain: str = "nll"
    retain_divergence: str = "cross_entropy"

    def __post_init__(self) -> None:
        not_negative(forget_weight=self.forget_weight, retain_weight=self.retain_weight)
        choose("retain", self.retain, ("none", "nll", "kl"))
        choose("retain_divergence", self.retain_divergence, ("cross_entropy", "kl"))

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        if self.retain == "none":
            return {"forget": ("logp",)}
        return {"forget": ("logp",), "retain": ("logp" if self.retain == "nll" else self.retain_divergence,)}

    def __call__(self, forget: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        nll = -forget.mean("logp")  # (B_f,) nats per token
        parts = {"forget_nll": forget.batch_mean(nll)}
        if self.retain == "none":
            return LossOutput(-self.forget_weight * parts["forget_nll"], parts)
        term = -retain.mean("logp") if self.retain == "nll" else retain.mean(self.retain_divergence)  # (B_r,)
        parts[f"retain_{'nll' if self.retain == 'nll' else self.retain_divergence}"] = retain.batch_mean(term)
        # A step may be all of one kind: its count of the other is 0, and not the 1 that means are divided by.
        samples = forget.examples + retain.examples
        return LossOutput((self.retain_weight * term.sum() - self.forget_weight * nll.sum()) / samples, parts)


@dataclass(frozen=True)
class Relabelled(Loss):
    """random_label and adversarial: L = mean over samples of the token mean of -log p_theta(other label)."""

    needs = {"relabelled": ("logp",)}
    repels = ()

    def __call__(self, relabelled: TokenTable) -> LossOutput:
        loss = relabelled.batch_mean(-relabelled.mean("logp"))
        return LossOutput(loss, {"relabelled_nll": loss})
