"""The smallest model there is: one free row of logits per token, and a reference a little off."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from utils.engine.table import TokenTable


class FreeModel:
    """Free logits, float64, for 3 answers per stream, of 4, 2 and 3 tokens, over 6 words; the true token is word 0.

    As in a model that memorised its forget set, the true tokens of the stream forget start out likely.
    """

    def __init__(self, streams: Iterable[str], seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.mask = torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
        self.logits: dict[str, Tensor] = {}
        self.reference: dict[str, Tensor] = {}
        for stream in streams:
            start, noise = torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)
            start[..., 0] += 3.0 if stream == "forget" else 0.0
            self.logits[stream] = start.requires_grad_()
            self.reference[stream] = start.detach() + 0.5 * noise

    def streams(self) -> dict[str, TokenTable]:
        """Every stream with every statistic that a loss of this folder can ask for."""
        return {stream: self._table(logits, self.reference[stream]) for stream, logits in self.logits.items()}

    def step(self, loss: Tensor, rate: float) -> None:
        """One step of plain gradient descent."""
        gradients = torch.autograd.grad(loss, list(self.logits.values()))
        with torch.no_grad():
            for logits, gradient in zip(self.logits.values(), gradients, strict=True):
                logits -= rate * gradient

    def _table(self, logits: Tensor, reference: Tensor) -> TokenTable:
        logp, reference_logp = logits.log_softmax(-1), reference.log_softmax(-1)
        statistics = {
            "logp": logp[..., 0],
            "reference_logp": reference_logp[..., 0],
            "kl": (reference_logp.exp() * (reference_logp - logp)).sum(-1),
            "cross_entropy": -(reference_logp.exp() * logp).sum(-1),
            "logit_npo": (0.1 * (reference - logits)).sigmoid().log().mean(-1),
            "logit_kl": (reference.exp() * (reference - logits)).sum(-1),
        }
        return TokenTable.of(self.mask, {key: torch.where(self.mask, v, 0.0) for key, v in statistics.items()})
