"""What an evaluation asks of a model: probabilities of given answers, and an answer of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One question of one task.

    answers: (role, number, text) of every answer to score; the same text may play several roles and is scored once.
    reference: what the model's own answer is compared with; None asks for no generation.
    """

    task: str
    index: int
    question: str
    answers: tuple[tuple[str, int, str], ...]
    reference: str | None
