"""Per-token statistics: small functions of the next-token logits at answer positions. All arithmetic is float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MUSE_BETA = 0.1  # arXiv 2407.06460: the beta of its NPO, inside logit_npo since it lies inside the logarithm


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


def logp(logits: Logits) -> Tensor:
    """(n,) log-probability of the answer token, gathered before normalising: no second (n, V) tensor is written."""
    true = logits.values.gather(-1, logits.labels[:, None])[:, 0]
    return true - torch.logsumexp(logits.values, dim=-1)


def hit(logits: Logits) -> Tensor:
    """(n,) 1 where the answer token has the largest logit, else 0."""
    return (logits.values.argmax(dim=-1) == logits.labels).float()


def argmax(logits: Logits) -> Tensor:
    """(n,) id of the most likely token; a float32 holds ids up to 16.7 million exactly."""
    return logits.values.argmax(dim=-1).float()


def entropy(logits: Logits) -> Tensor:
    """(n,) entropy of the next-token distribution in nats."""
    return -(logits.log_probabilities.exp() * logits.log_probabilities).sum(dim=-1)


def logp_variance(logits: Logits) -> Tensor:
    """(n,) variance of log p under p, the scale of min-k++ (arXiv 2404.02936)."""
    p, lp = logits.log_probabilities.exp(), logits.log_probabilities
    mean = (p * lp).sum(dim=-1, keepdim=True)
    return (p * (lp - mean).square()).sum(dim=-1)


def kl(logits: Logits) -> Tensor:
    """(n,) KL(reference || model) over the whole vocabulary, in nats. Raises ValueError without reference logits."""
    reference = _reference(logits, "kl")
    return (reference.exp() * (reference - logits.log_probabilities)).sum(dim=-1)


def cross_entropy(logits: Logits) -> Tensor:
    """(n,) H(reference, model) = KL(reference || model) + entropy of the reference: the gradient of kl, another value.

    Released code of LLMU and KnowUnDo reports it as its divergence. Raises ValueError without reference logits.
    """
    return -(_reference(logits, "cross_entropy").exp() * logits.log_probabilities).sum(dim=-1)


def logit_npo(logits: Logits) -> Tensor:
    """(n,) mean over the vocabulary of log sigmoid(0.1 (z_ref - z)) of the logits themselves, as released code of MUSE has it.

    Not invariant to a constant added to all logits: losses/muse_released.py. Raises ValueError without reference logits.
    """
    return logsigmoid(MUSE_BETA * (_reference_logits(logits, "logit_npo") - logits.values)).mean(dim=-1)


def logit_kl(logits: Logits) -> Tensor:
    """(n,) sum over the vocabulary of exp(z_ref) (z_ref - z): the KL of MUSE's released code, of logits as they are.

    Of any sign, without a minimum. Raises ValueError without reference logits.
    """
    reference = _reference_logits(logits, "logit_kl")
    return (reference.exp() * (reference - logits.values)).sum(dim=-1)


def _reference(logits: Logits, name: str) -> Tensor:
    return torch.log_softmax(_reference_logits(logits, name), dim=-1)


def _reference_logits(logits: Logits, name: str) -> Tensor:
    if logits.reference is None:
        raise ValueError(f"statistic {name} needs reference logits; the method must run with a reference")
    return logits.reference


STATISTICS: Mapping[str, Callable[[Logits], Tensor]] = {
    "logp": logp,
    "hit": hit,
    "argmax": argmax,
    "entropy": entropy,
    "logp_variance": logp_variance,
    "kl": kl,
    "cross_entropy": cross_entropy,
    "logit_npo": logit_npo,
    "logit_kl": logit_kl,
}
NEEDS_REFERENCE_LOGITS = frozenset({"kl", "cross_entropy", "logit_npo", "logit_kl"})


def compute(names: Sequence[str], logits: Logits) -> Tensor:
    """(n, S) the named statistics, one column each, float32."""
    return torch.stack([STATISTICS[name](logits) for name in names], dim=-1)
