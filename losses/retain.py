"""The retain term that many methods add to their forget term.

    nll: CE(x_r, y_r) = mean over all retain answer tokens of -log p_theta          "gradient descent on retain", RT, GD
    kl:  KLr          = mean over all retain answer tokens of KL(p_ref || p_theta)   forward KL, frozen reference first

Source: TOFU, arXiv 2401.06121. Released code averages KLr over every position of the padded batch, prompt and padding
included, so that it depends on the padding; here only answer tokens count.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from utils.checks import choose, not_negative
from utils.engine.loss import LossOutput, neg_log_likelihood
from utils.engine.table import TokenTable

STATISTICS_OF = {"none": (), "nll": ("logp",), "kl": ("kl",)}


def check_retain(retain: str, retain_weight: float) -> None:
    """Raises ValueError for an unknown retain term or a weight below 0."""
    choose("retain", retain, STATISTICS_OF)
    not_negative(retain_weight=retain_weight)


def retain_needs(retain: str) -> dict[str, tuple[str, ...]]:
    """What the retain term adds to a loss's `needs`: nothing at all without one."""
    return {} if retain == "none" else {"retain": STATISTICS_OF[retain]}


def with_retain(
    loss: Tensor, parts: Mapping[str, Tensor], retain: str, retain_weight: float, table: TokenTable | None
) -> LossOutput:
    """loss + retain_weight * term, and the unweighted term among the parts as `retain_nll` or `retain_kl`.

    Raises ValueError if the term needs the stream retain and `table` is None.
    """
    if retain == "none":
        return LossOutput(loss, parts)
    if table is None:
        raise ValueError(f"retain={retain} needs the stream retain, which was not passed; use retain=none without it.")
    term = neg_log_likelihood(table) if retain == "nll" else table.token_mean("kl")
    return LossOutput(loss + retain_weight * term, {**parts, f"retain_{retain}": term})
