"""Randomness as a pure function of what is drawn for: the same with any number of processes or workers, and after a resume."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from utils.fingerprint import text_hash

if TYPE_CHECKING:
    import torch


def generator(*parts: object) -> random.Random:
    """A generator for what `parts` name: texts and numbers, joined by slashes; a number alone is the seed itself."""
    return random.Random(parts[0] if len(parts) == 1 and isinstance(parts[0], int) else _joined(parts))


def torch_generator(*parts: object) -> torch.Generator:
    """As `generator`, for draws of tensors on the CPU."""
    import torch  # who draws questions from a file needs none

    return torch.Generator().manual_seed(int(text_hash(_joined(parts)), 16) % 2**63)


def draw(seed: int, epoch: int, index: int, purpose: str, choices: int) -> int:
    """Uniform integer in [0, choices). Different purposes are independent; the same arguments always give the same number."""
    return generator(purpose, seed, epoch, index).randrange(choices)


def permutation(seed: int, epoch: int, length: int) -> list[int]:
    """The order in which an epoch visits its items."""
    order = list(range(length))
    generator("order", seed, epoch).shuffle(order)
    return order


def dice(seed: int, epoch: int, index: int, purpose: str) -> random.Random:
    """A generator for one item: many draws that are a pure function of the arguments."""
    return generator(draw(seed, epoch, index, purpose, 2**63))


def _joined(parts: tuple[object, ...]) -> str:
    return "/".join(str(part) for part in parts)
