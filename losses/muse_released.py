"""NPO and the KL on retain data as MUSE's released code computes them: on raw logits z, which are not log-probabilities.

    NPO:  L = -(2 / beta) mean_t mean_v log sigmoid(beta (z_ref[t, v] - z[t, v]))      beta = 0.1
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

from utils.checks import choose, not_negative
from utils.engine.loss import Loss, LossOutput, neg_log_likelihood
from utils.engine.table import TokenTable
from utils.engine.token_statistics import MUSE_BETA

FORGET_STATISTICS = {"ga": ("logp",), "npo": ("logit_npo",)}
RETAIN_STATISTICS = {"none": (), "gdr": ("logp",), "klr": ("logit_kl",)}


@dataclass(frozen=True)
class MuseReleased(Loss):
    """forget_term: ga | npo. retain: none | gdr | klr. Raises ValueError for another term or a retain weight below 0."""

    forget_term: str = "npo"
    retain: str = "none"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        choose("forget_term", self.forget_term, FORGET_STATISTICS)
        choose("retain", self.retain, RETAIN_STATISTICS)
        not_negative(retain_weight=self.retain_weight)

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        kept = {} if self.retain == "none" else {"retain": RETAIN_STATISTICS[self.retain]}
        return {"forget": FORGET_STATISTICS[self.forget_term], **kept}

    def __call__(self, forget: TokenTable, retain: TokenTable | None = None) -> LossOutput:
        if self.forget_term == "npo":
            loss = -2 / MUSE_BETA * forget.token_mean("logit_npo")
            parts = {"logit_npo": loss}
        else:
            parts = {"forget_nll": neg_log_likelihood(forget)}
            loss = -parts["forget_nll"]
        if self.retain == "none":
            return LossOutput(loss, parts)
        if self.retain == "gdr":
            name, term = "retain_nll", neg_log_likelihood(retain)
        else:
            name, term = "retain_logit_kl", retain.batch_mean(retain.sum("logit_kl"))
        return LossOutput(loss + self.retain_weight * term, {**parts, name: term})
