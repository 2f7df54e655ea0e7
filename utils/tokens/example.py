"""A prompt and its answer as token ids: what every batch is made of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from utils.fingerprint import text_hash

IGNORED = -100  # a label that asks for nothing; the value that loss functions of PyTorch know


class EmptyAnswer(ValueError):
    """Nothing of the answer is left to supervise: it is blank, or the prompt fills max_length: drop the row."""


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and an answer, neither empty: every answer token is supervised, no prompt token is.

    labels: what is to be predicted in place of each answer token, IGNORED where nothing is; None: the answer itself.
    lost: why the answer is not whole: "cut" to fit max_length, or "eos", an EOS written inside of its text; "" if it is.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    lost: Literal["", "cut", "eos"] = field(default="", compare=False)

    def supervised(self) -> list[tuple[int, int]]:
        """(place in the answer, token to predict there) of every supervised token."""
        labels = self.answer if self.labels is None else self.labels
        return [(place, label) for place, label in enumerate(labels) if label != IGNORED]

    def __len__(self) -> int:
        """Number of supervised tokens."""
        return len(self.answer) if self.labels is None else len(self.labels) - self.labels.count(IGNORED)


def common_length(*sequences: Sequence[int]) -> int:
    """Number of leading ids that all sequences share."""
    ordered = [tuple(sequence) for sequence in sequences]
    first, last = min(ordered), max(ordered)  # what these two share, all between them share
    return next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


LOST = {"cut": "are cut to fit max_length={max_length}", "eos": "end early: an EOS is written inside of their text"}


def count_lost(examples: Iterable[Example]) -> dict[str, int]:
    """How many answers are not whole, by what they lost (`Example.lost`)."""
    counts: Counter[str] = Counter(example.lost for example in examples)
    return {why: counts[why] for why in LOST if counts[why]}


def say_lost(counts: Mapping[str, int], total: int, max_length: int) -> list[str]:
    """What `count_lost` found among `total` answers, a sentence each."""
    return [f"{number} of {total} answers {LOST[why].format(max_length=max_length)}" for why, number in counts.items()]


def digest(example: Example) -> bytes:
    """16 bytes that identify an example by its token ids."""
    ids = (example.prompt, example.answer) if example.labels is None else (example.prompt, example.answer, example.labels)
    return hashlib.blake2b(repr(ids).encode(), digest_size=16).digest()


def prompt_key(prompt: Sequence[int], *limits: object) -> str:
    """16 hex digits that identify a continuation: the prompt's ids and whatever decides where and how it ends."""
    return text_hash(repr(tuple(prompt)), *(repr(limit) for limit in limits))
