"""f-divergences in their variational form, for FLAT: g* scores the template answer, f*(g*) the forget answer.

    loss = -g*(P_e) + f*(g*(P_f)),   f* = convex conjugate of f,   P in [0, 1]

Supported (FLAT, arXiv 2410.11143): kl, tv, js, pearson. Experimental (FLAT's released code only): jeffrey, reverse_kl,
hellinger, neyman. As released, reverse_kl and hellinger learn the forget answer and forget the template, and neyman
forgets both: g was written for a network output of either sign, but a probability is fed to it. `RELEASED` keeps those
three for comparison (`signs: flat`); with the forms in `DIVERGENCES` the loss falls as P_e rises and as P_f falls.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG2 = log(2.0)


class Divergence(NamedTuple):
    """Two elementwise functions of a probability: template_term = g*, forget_term = f*(g*)."""

    template_term: Callable[[Tensor], Tensor]
    forget_term: Callable[[Tensor], Tensor]


def _half_tanh(v: Tensor) -> Tensor:
    return 0.5 * torch.tanh(v)


DIVERGENCES = {
    "kl": Divergence(lambda v: v, lambda v: torch.exp(v - 1)),
    "tv": Divergence(_half_tanh, _half_tanh),
    "js": Divergence(lambda v: LOG2 - softplus(-v), lambda v: softplus(v) - LOG2),
    "pearson": Divergence(lambda v: v, lambda v: v + v**2 / 4),
    # f* of Jeffrey needs the Lambert W function; this is its Taylor series at 0 to third order, as released.
    "jeffrey": Divergence(lambda v: v, lambda v: v + v**2 / 4 + v**3 / 16),
    "reverse_kl": Divergence(lambda v: -torch.exp(-v), lambda v: v - 1),
    "hellinger": Divergence(lambda v: -torch.expm1(-v), torch.expm1),
    "neyman": Divergence(lambda v: -torch.expm1(-v), lambda v: -2 * torch.expm1(-v / 2)),
}

SUPPORTED = ("kl", "tv", "js", "pearson")

RELEASED = {
    "reverse_kl": Divergence(lambda v: -torch.exp(v), lambda v: -1 - v),
    "hellinger": Divergence(lambda v: -torch.expm1(v), lambda v: torch.expm1(-v)),
    "neyman": Divergence(lambda v: -torch.expm1(v), lambda v: 2 - 2 * torch.sqrt(1 - v)),
}


def divergence(name: str, signs: str = "paper") -> Divergence:
    """The divergence `name`; signs "flat" gives the wrong-signed form where one exists. KeyError if unknown."""
    return RELEASED[name] if signs == "flat" and name in RELEASED else DIVERGENCES[name]
