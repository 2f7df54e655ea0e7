"""The retain term that many methods add to their forget term.

    nll: CE(x_r, y_r) = mean over all retain answer tokens of -log p_theta          "gradient descent on retain", RT, GD
    kl:  KLr          = mean over all retain answer tokens of KL(p_ref || p_theta)   forward KL, frozen reference first

Source: TOFU, arXiv 2401.06121. Released code averages KLr over every position of the padded batch, prompt and padding
included, so that it depends on the padding; here only answer tokens count. Losses whose paper weighs the same two terms
otherwise take `retain_values` and a mean of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from utils.checks import choose, not_negative
from utils.engine.loss import LossOutput, Needs
from utils.engine.table import TokenTable
from utils.engine.token_statistics import Asked, name_of


def check_retain(retain: str, retain_weight: float) -> None:
    """Raises ValueError for an unknown retain term or a weight below 0."""
    choose("retain", retain, ("none", "nll", "kl"))
    not_negative(retain_weight=retain_weight)


def retain_needs(retain: str, divergence: Asked = "kl") -> Needs:
    """What the retain term adds to a loss's `needs`: nothing at all without one. divergence: the statistic that kl averages."""
    return {} if retain == "none" else {"retain": ("logp" if retain == "nll" else divergence,)}


def retain_values(retain: str, table: TokenTable | None, divergence: Asked = "kl") -> tuple[str, TokenTable, Tensor]:
    """Of nll or kl: (name of the part that is logged, the table, (B, T) what the term averages).

    Raises ValueError if the table of the stream retain was not passed.
    """
    if table is None:
        raise ValueError(f"retain={retain} needs the stream retain, which was not passed; use retain=none without it.")
    if retain == "nll":
        return "retain_nll", table, -table["logp"]
    return f"retain_{name_of(divergence)}", table, table[name_of(divergence)]


def with_retain(
    loss: Tensor, parts: Mapping[str, Tensor], retain: str, retain_weight: float, table: TokenTable | None
) -> LossOutput:
    """loss + retain_weight * term, and the unweighted term among the parts as `retain_nll` or `retain_kl`.

    Raises ValueError as `retain_values` does.
    """
    if retain == "none":
        return LossOutput(loss, parts)
    name, table, values = retain_values(retain, table)
    term = table.token_mean(values)
    return LossOutput(loss + retain_weight * term, {**parts, name: term})
