"""Per-token statistics: small functions of the next-token logits at answer positions. All arithmetic is float32.

A statistic is entered once, by writing its function under `@statistic()`: here, where losses and measures ask for it by name, or
in the module of the one loss that reads it, whose `needs` then holds the `Statistic` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

REFERENCE_LOGP = "reference_logp"  # a column of every table that asks for it, but no function of logits: the reference knows it


@dataclass
class Logits:
    """Logits at n answer positions. values: (n, V) float32. labels: (n,). reference: (n, V) float32 logits, or None."""

    values: Tensor
    labels: Tensor
    reference: Tensor | None = None

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(n, V) log-softmax."""
        return torch.log_softmax(self.values, dim=-1)

    @property
    def reference_values(self) -> Tensor:
        """(n, V) logits of the reference, for statistics that need them."""
        assert self.reference is not None  # a Statistic has looked before it calls its function
        return self.reference

    @cached_property
    def reference_log_probabilities(self) -> Tensor:
        """(n, V) log-softmax of the reference's logits."""
        return torch.log_softmax(self.reference_values, dim=-1)


@dataclass(frozen=True)
class Statistic:
    """A number per answer token, made of its logits. Called with `Logits` of n positions it gives (n,) float32.

    name: its column in a token table. needs_reference: whether it reads the reference's logits; called
    without them it raises ValueError.
    """

    name: str
    function: Callable[[Logits], Tensor]
    needs_reference: bool = False

    def __call__(self, logits: Logits) -> Tensor:
        if self.needs_reference and logits.reference is None:
            raise ValueError(f"statistic {self.name} needs reference logits; the method must run with a reference")
        return self.function(logits)


Asked = str | Statistic
"""What a loss asks for: a statistic of this module or `reference_logp` by name, or a statistic that it brings itself."""


def statistic(needs_reference: bool = False) -> Callable[[Callable[[Logits], Tensor]], Statistic]:
    """Makes a function a `Statistic`, named as it is."""
    return lambda function: Statistic(function.__name__, function, needs_reference)


@statistic()
def logp(logits: Logits) -> Tensor:
    """Log-probability of the answer token, gathered before normalising: no second (n, V) tensor is written."""
    true = logits.values.gather(-1, logits.labels[:, None])[:, 0]
    return true - torch.logsumexp(logits.values, dim=-1)


@statistic()
def hit(logits: Logits) -> Tensor:
    """1 where the answer token has the largest logit, else 0."""
    return (logits.values.argmax(dim=-1) == logits.labels).float()


@statistic()
def argmax(logits: Logits) -> Tensor:
    """Id of the most likely token; a float32 holds ids up to 16.7 million exactly."""
    return logits.values.argmax(dim=-1).float()


@statistic()
def entropy(logits: Logits) -> Tensor:
    """Entropy of the next-token distribution in nats."""
    return -(logits.log_probabilities.exp() * logits.log_probabilities).sum(dim=-1)


@statistic()
def logp_variance(logits: Logits) -> Tensor:
    """Variance of log p under p, the scale of min-k++ (arXiv 2404.02936)."""
    p, lp = logits.log_probabilities.exp(), logits.log_probabilities
    mean = (p * lp).sum(dim=-1, keepdim=True)
    return (p * (lp - mean).square()).sum(dim=-1)


@statistic(needs_reference=True)
def kl(logits: Logits) -> Tensor:
    """KL(reference || model) over the whole vocabulary, in nats."""
    reference = logits.reference_log_probabilities
    return (reference.exp() * (reference - logits.log_probabilities)).sum(dim=-1)


@statistic(needs_reference=True)
def cross_entropy(logits: Logits) -> Tensor:
    """H(reference, model) = KL(reference || model) + entropy of the reference: the gradient of kl, another value."""
    return -(logits.reference_log_probabilities.exp() * logits.log_probabilities).sum(dim=-1)


# By name, every statistic above: what can be asked for without bringing it along.
STATISTICS = {value.name: value for value in tuple(globals().values()) if isinstance(value, Statistic)}


def named(asked: Asked) -> Statistic:
    """The statistic itself. Raises KeyError for a name that is none of STATISTICS."""
    return asked if isinstance(asked, Statistic) else STATISTICS[asked]


def name_of(asked: Asked) -> str:
    """Its column in a token table."""
    return asked.name if isinstance(asked, Statistic) else asked


def need_reference_logits(asked: Iterable[Asked]) -> bool:
    """Whether any of these compares whole distributions with the reference's."""
    return any(named(one).needs_reference for one in asked if one != REFERENCE_LOGP)


def compute(asked: Sequence[Asked], logits: Logits) -> Tensor:
    """(n, S) the statistics asked for, one column each, float32."""
    return torch.stack([named(one)(logits) for one in asked], dim=-1)
