"""What an evaluation asks of a model: probabilities of given answers, and an answer of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.sampled_answers import Sampling


OWN = "@"  # between a task and the measure that asks for it in its own way


@dataclass(frozen=True)
class Request:
    """One question of one task.

    answers: (role, number, text) of every answer to score; the same text may play several roles and is scored once.
    reference: what the model's own answer is compared with; None asks for no generation.
    prefix: text in front of the question that many questions share, as worked examples; a batch of answers reads it once.
    max_new_tokens: limit of the model's own answer; None: the benchmark's.
    paraphrase: the question in other words, where the data have it.
    keeps_space: white space around the model's own answer means something: it is not stripped.
    given: how much of every answer stands in the prompt: a number of words, or a share of them below 1 (data/probes.py).
    sampling: the model's own answer is drawn, `samples` times, instead of the most likely one (utils/sampled_answers.py).
    """

    task: str
    index: int
    question: str
    answers: tuple[tuple[str, int, str], ...]
    reference: str | None
    prefix: str = ""
    max_new_tokens: int | None = None
    paraphrase: str | None = None
    keeps_space: bool = False
    given: float = 0
    sampling: Sampling | None = None
    samples: int = 1

    @property
    def of(self) -> str:
        """The benchmark's task that this belongs to, whoever asks."""
        return self.task.partition(OWN)[0]

    @property
    def asked(self) -> str:
        """What stands in the prompt: prefix and question."""
        return self.prefix + self.question
