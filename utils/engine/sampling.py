"""Answers that are drawn at random: which token comes next is a pure function of the logits and of who asks.

Each answer has its own stream of uniform numbers u_1, u_2, ..., one per token, seeded by (seed, task, index, number). Token t is
the first whose cumulative probability exceeds u_t, in the vocabulary's order: the same alone or in a batch, on one process or on
many, and after a resume, as far as the logits are the same (in another batch they differ by rounding, which moves a border of
the cumulative probability by as little). Raising the number of answers keeps those that were drawn before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from utils.checks import is_number, is_share, require, whole
from utils.draws import generator


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: from softmax(logits / temperature), of which only the nucleus is kept.

    top_p: probability that the nucleus holds at least; 1 keeps all (arXiv 1904.09751). Raises ValueError for other values.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        above = is_number(self.temperature) and self.temperature > 0
        require(above, "temperature", self.temperature, "a number above 0; most likely answers need no sampling")
        require(is_share(self.top_p), "top_p", self.top_p, "a probability above 0 and up to 1 (1: all tokens)")
        whole("seed", self.seed)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, V) -> (B, V) float64, not normalised: 0 outside of the nucleus, the smallest set of most likely tokens that holds
        top_p; of equals at its border the first are kept."""
        probabilities = (logits.double() / self.temperature).softmax(dim=-1)
        if self.top_p == 1:
            return probabilities
        likely, order = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = likely.cumsum(dim=-1) - likely >= self.top_p
        return probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)


@dataclass(frozen=True)
class Draw:
    """Answer `number` of those that are drawn for question `index` of `task`."""

    sampling: Sampling
    task: str
    index: int
    number: int = 0

    def uniforms(self) -> random.Random:
        """The stream that `random()` takes u_1, u_2, ... from."""
        return generator("answer", self.sampling.seed, self.task, self.index, self.number)


class Sampler(LogitsProcessor):
    """For the `sampler` of `continue_ids`: leaves one token of each row, that which its draw says. Made anew for every batch.

    draws: one per row of the batch; their sampling must be the same.
    """

    def __init__(self, draws: Sequence[Draw]):
        (self.sampling,) = {draw.sampling for draw in draws}
        self.draws, self.streams = draws, [draw.uniforms() for draw in draws]

    def rows(self, places: Sequence[int]) -> Sampler:
        """The sampler of a batch that holds only these rows; their streams begin anew."""
        return Sampler([self.draws[place] for place in places])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniforms = torch.tensor([stream.random() for stream in self.streams], dtype=torch.float64, device=scores.device)
        chosen = drawn_tokens(self.sampling.probabilities(scores), uniforms)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


def sampler_of(drawn: Sequence[Draw | None]) -> Callable[[list[int]], Sampler] | None:
    """For `generate`: what makes the sampler of a batch, given the places of its prompts; None if nothing is drawn."""
    chosen = [draw for draw in drawn if draw is not None]
    return (lambda places: Sampler([chosen[place] for place in places])) if chosen else None


def drawn_tokens(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """(B, V) weights, (B,) numbers u in [0, 1) -> (B,) first token whose share of the sum, with those before it, exceeds u."""
    reached = probabilities.cumsum(dim=-1)
    chosen = torch.searchsorted(reached, uniforms[:, None] * reached[:, -1:], right=True)[:, 0]
    return chosen.clamp(max=probabilities.shape[-1] - 1)  # rounding may put u times the sum on the sum itself
