"""Randomness as a pure function of (seed, epoch, index): the same with any number of processes or workers, and after a resume."""

from __future__ import annotations

import random


def draw(seed: int, epoch: int, index: int, purpose: str, choices: int) -> int:
    """Uniform integer in [0, choices). Different purposes are independent; the same arguments always give the same number."""
    return random.Random(f"{purpose}/{seed}/{epoch}/{index}").randrange(choices)


def permutation(seed: int, epoch: int, length: int) -> list[int]:
    """The order in which an epoch visits its items."""
    order = list(range(length))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return order


def dice(seed: int, epoch: int, index: int, purpose: str) -> random.Random:
    """A generator for one item: many draws that are a pure function of the arguments."""
    return random.Random(draw(seed, epoch, index, purpose, 2**63))
