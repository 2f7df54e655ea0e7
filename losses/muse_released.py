"""NPO and the KL on retain data as MUSE's released code computes them: on raw logits z, which are not log-probabilities.

    NPO:  L = -(2 / beta) mean_t mean_v log sigmoid(beta (z_ref[t, v] - z[t, v]))
    KLR:  R = mean_b sum_t sum_v exp(z_ref[t, v]) (z_ref[t, v] - z[t, v])              GDR:  R = CE(x_r)
    L + R, or -CE(x_f) + R (GA);   t: tokens, v: the whole vocabulary, b: passages

Only for rows of the paper's tables. This NPO reads no label: it lowers all logits, at z = z_ref all alike, which softmax does not
see. R of KLR is linear in z, has no minimum, and weighs tokens by exp(z_ref), that is, by how high their logits happen to lie.
What the paper defines instead are the methods npo, npo_rt, npo_kl and kl; its GA and GA + GDR are ga and graddiff in code and
paper alike.

Source: MUSE, arXiv 2407.06460, both releases of its code. Released code also averages over the position after the last token of
each passage (one in 2048), which nothing is asked of and which is not computed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from losses.retain import check_retain, retain_needs, retain_values, with_retain
from utils.checks import choose, positive
from utils.engine.loss import Loss, LossOutput, Needs, neg_log_likelihood
from utils.engine.table import TokenTable
from utils.engine.token_statistics import Logits, Statistic, statistic


def logit_npo(beta: float) -> Statistic:
    """beta lies inside the logarithm, so the mean over the vocabulary is another statistic for every beta."""

    @statistic(needs_reference=True)
    def logit_npo(logits: Logits) -> Tensor:
        """Vocabulary mean of log sigmoid(beta (z_ref - z)); a constant added to all logits changes it."""
        return logsigmoid(beta * (logits.reference_values - logits.values)).mean(dim=-1)

    return logit_npo


@statistic(needs_reference=True)
def logit_kl(logits: Logits) -> Tensor:
    """Sum over the vocabulary of exp(z_ref) (z_ref - z): of any sign, without a minimum."""
    return (logits.reference_values.exp() * (logits.reference_values - logits.values)).sum(dim=-1)


@dataclass(frozen=True)
class MuseReleased(Loss):
    """forget_term: npo | ga. retain: none | nll (GDR) | kl (KLR).

    Raises ValueError for another term, a beta of 0 or below, or a retain weight below 0.
    """

    forget_term: str = "npo"
    beta: float = 0.1
    retain: str = "none"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        choose("forget_term", self.forget_term, ("npo", "ga"))
        positive("beta", self.beta)
        check_retain(self.retain, self.retain_weight)

    @property
    def needs(self) -> Needs:
        asked = logit_npo(self.beta) if self.forget_term == "npo" else "logp"
        return {"forget": (asked,), **retain_needs(self.retain, logit_kl)}

    def __call__(self, forget: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        if self.forget_term == "npo":
            loss = -2 / self.beta * forget.token_mean("logit_npo")
            parts = {"logit_npo": loss}
        else:
            parts = {"forget_nll": neg_log_likelihood(forget)}
            loss = -parts["forget_nll"]
        if self.retain != "kl":
            return with_retain(loss, parts, self.retain, self.retain_weight, retain)
        name, retain, values = retain_values("kl", retain, logit_kl)
        term = retain.batch_mean(retain.sum(values))
        return LossOutput(loss + self.retain_weight * term, {**parts, name: term})
