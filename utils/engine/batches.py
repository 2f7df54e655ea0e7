"""What does not fit in memory is done in two halves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from utils.engine.engine import Engine
from utils.tokens.example import Example

log = logging.getLogger(__name__)
T, R = TypeVar("T"), TypeVar("R")


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


def batches_of(examples: Sequence[Example], budget: int) -> Iterator[list[Example]]:
    """Batches of at most `budget` tokens; answers to one prompt stay together, and the longest come first: a lack of memory
    shows at once."""
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt, []).append(example)
    sizes = {prompt: len(prompt) + sum(len(e.answer) for e in answers) for prompt, answers in groups.items()}
    batch: list[Example] = []
    tokens = 0
    for prompt in sorted(groups, key=lambda prompt: -sizes[prompt]):
        if batch and tokens + sizes[prompt] > budget:
            yield batch
            batch, tokens = [], 0
        batch += groups[prompt]
        tokens += sizes[prompt]
    if batch:
        yield batch
