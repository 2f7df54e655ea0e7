"""The token table: per-token statistics of answers given prompts, the one thing that every loss reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenTable:
    """Statistics of the answer tokens of B examples, T = tokens of the longest answer.

    mask: (B, T) bool, True on answer tokens; set by length, never by token value.
    statistics: name -> (B, T) float32 in nats, zero where the mask is False.
    examples, tokens: how many examples and answer tokens the *whole* optimizer step holds in this stream, summed over
        micro-batches and processes. Dividing by them makes the sum over micro-batches equal to the loss of the undivided
        batch. Outside training they are the table's own counts.
    before: (B,) tokens before the first answer token; None where nobody counted. Only released forms of losses that
        divide by whole rows read it.
    rows: the same examples at every position of their rows, where the loss asks for that (`Loss.spans`); else None.
    """

    mask: Tensor
    statistics: Mapping[str, Tensor]
    examples: Tensor | float
    tokens: Tensor | float
    before: Tensor | None = None
    rows: TokenTable | None = None

    @classmethod
    def of(cls, mask: Tensor, statistics: Mapping[str, Tensor]) -> TokenTable:
        """A table that is a whole batch by itself."""
        return cls(mask, statistics, float(mask.shape[0]), float(mask.sum()))

    def __getitem__(self, name: str) -> Tensor:
        """(B, T) statistic `name`. Raises KeyError that lists the statistics present."""
        if name not in self.statistics:
            raise KeyError(f"statistic {name!r} was not computed; this table has {sorted(self.statistics)}")
        return self.statistics[name]

    @property
    def length(self) -> Tensor:
        """(B,) number of answer tokens, at least 1 so that an empty answer divides by 1."""
        return self.mask.sum(dim=1).clamp(min=1)

    def sum(self, values: str | Tensor) -> Tensor:
        """(B,) sum over the answer tokens of a statistic or of a (B, T) tensor."""
        values = self[values] if isinstance(values, str) else values
        return torch.where(self.mask, values, 0.0).sum(dim=1)

    def mean(self, values: str | Tensor) -> Tensor:
        """(B,) mean over the answer tokens of each example."""
        return self.sum(values) / self.length

    def token_mean(self, values: str | Tensor) -> Tensor:
        """Scalar: mean over all answer tokens of the optimizer step (long answers weigh more)."""
        return self.sum(values).sum() / _at_least_one(self.tokens)

    def batch_mean(self, values: Tensor) -> Tensor:
        """Scalar: mean of a (B,) value over all examples of the optimizer step."""
        return values.sum() / _at_least_one(self.examples)

    @property
    def share(self) -> Tensor | float:
        """This micro-batch's share of the step's examples: the weight of a value that cannot be summed over micro-batches."""
        return self.mask.shape[0] / _at_least_one(self.examples)


def _at_least_one(count: Tensor | float) -> Tensor | float:
    """A step may hold nothing of a stream: its mean is then zero, not zero over zero."""
    return count.clamp(min=1) if isinstance(count, Tensor) else max(1.0, count)
