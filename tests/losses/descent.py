"""The smallest model there is: one free row of logits per token, and a reference a little off."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tests.naive import NAIVE_STATISTICS
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
        """Every stream with every statistic that a loss can ask for."""
        return {stream: self._table(logits, self.reference[stream]) for stream, logits in self.logits.items()}

    def step(self, loss: Tensor, rate: float) -> None:
        """One step of plain gradient descent."""
        gradients = torch.autograd.grad(loss, list(self.logits.values()))
        with torch.no_grad():
            for logits, gradient in zip(self.logits.values(), gradients, strict=True):
                logits -= rate * gradient

    def _table(self, logits: Tensor, reference: Tensor) -> TokenTable:
        true = torch.zeros(self.mask.shape, dtype=torch.long)
        statistics = {name: naive(logits, reference, true) for name, naive in NAIVE_STATISTICS.items()}
        return TokenTable.of(self.mask, {name: torch.where(self.mask, v, 0.0) for name, v in statistics.items()})
