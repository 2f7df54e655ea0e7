"""Batches by length; what does not fit in memory is done in two halves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import TypeVar

import torch

from utils.engine.engine import Engine
from utils.tokens.example import Example

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


def in_halves(compute: Callable[[Sequence[T]], list[R]], items: Sequence[T], what: str) -> list[R]:
    """compute(items); of two halves, one after the other, if memory runs out. what: the items in the warning, in the plural.

    Raises torch.OutOfMemoryError if a single item does not fit.
    """
    try:
        return compute(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    # Outside of the except block: until there, the error keeps the failed tensors alive.
    half = len(items) // 2
    log.warning("%d %s do not fit in memory together: two halves, one after the other", len(items), what)
    return in_halves(compute, items[:half], what) + in_halves(compute, items[half:], what)


def answer_statistics(engine: Engine, examples: Sequence[Example], names: Sequence[str]) -> list[torch.Tensor]:
    """(supervised tokens, len(names)) float32 statistics of each example; halves what does not fit in memory."""

    def compute(part: Sequence[Example]) -> list[torch.Tensor]:
        packed = engine.pack({"answers": part}).to(engine.device)
        values = engine.statistics(packed, {"answers": names}, names).float().cpu()
        return list(values.split([len(example) for example in part]))

    return in_halves(compute, examples, "answers")


def batches_of(examples: Sequence[Example], budget: int) -> list[list[Example]]:
    """Batches of at most `budget` tokens, longest first; answers to one prompt stay together, and the prompt counts once."""
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt, []).append(example)
    rows = list(groups.values())
    sizes = [len(prompt) + sum(len(example.answer) for example in answers) for prompt, answers in groups.items()]
    return [[example for place in batch for example in rows[place]] for batch in by_length(sizes, budget, padded=False)]


def by_length(
    sizes: Sequence[int], budget: float = inf, most: float = inf, padded: bool = True, equal: bool = False
) -> list[list[int]]:
    """Places of texts of so many tokens, in batches, longest first: a lack of memory shows at once. Equals keep their order.

    budget: tokens that a batch may hold, every text padded to its longest; padded=False counts them without padding, where lines
    are packed. most: texts that it may hold. equal: only texts of one length share a batch. A text that is over the budget by
    itself is a batch of its own.
    """
    batches: list[list[int]] = []
    room, space = 0.0, 0.0  # tokens and texts for which the last batch still has room
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        size = sizes[batches[-1][0]] if batches and padded else sizes[place]
        other = equal and batches and sizes[place] != sizes[batches[-1][0]]
        if not batches or size > room or space < 1 or other:
            batches.append([])
            size, room, space = sizes[place], budget, most
        batches[-1].append(place)
        room, space = room - size, space - 1
    return batches
