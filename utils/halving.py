"""What does not fit in memory is done in two halves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

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
