"""What an evaluation asks of a model: probabilities of given answers, and an answer of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.tokens.chat import Turn
from utils.tokens.example import EmptyAnswer, Example, common_length
from utils.tokens.prompts import Encoder

if TYPE_CHECKING:
    from utils.engine.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """One question of one task.

    answers: (role, number, text) of every answer to score; the same text may play several roles and is scored once.
    truth: what the model's own answer is compared with; None asks for no generation.
    prefix: text in front of the question that many questions share, as worked examples; a batch of answers reads it once.
    max_new_tokens: limit of the model's own answer; None: the benchmark's.
    paraphrase: the question in other words, where the data have it.
    keeps_space: white space around the model's own answer means something: it is not stripped.
    given: how much of every answer stands in the prompt: a number of words, or a share of them below 1 (data/probes.py).
    sampling: the model's own answer is drawn, `samples` times, instead of the most likely one (utils/engine/sampling.py).
    asked_by: the measure that asks once more about the task; "": the benchmark.
    before: what was said before the question. bare: question and answers are running text, without a template around them.
    """

    task: str
    index: int
    question: str
    answers: tuple[tuple[str, int, str], ...]
    truth: str | None
    prefix: str = ""
    max_new_tokens: int | None = None
    paraphrase: str | None = None
    keeps_space: bool = False
    given: float = 0
    sampling: Sampling | None = None
    samples: int = 1
    asked_by: str = ""
    before: tuple[Turn, ...] = ()
    bare: bool = False

    @property
    def asked(self) -> str:
        """What stands in the prompt: prefix and question."""
        return self.prefix + self.question


def beginning(text: str, given: float) -> str:
    """The first words of a text as they are written: `given` of them, or as many as the share `given` makes; one is left out."""
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    count = given if isinstance(given, int) else max(1, int(given * len(ends)))
    count = min(count, len(ends) - 1)
    return text[: ends[count - 1]] if count > 0 else ""


def expected(request: Request) -> str | None:
    """What the model's own answer is compared with: the truth without what is given of it."""
    if request.truth is None or not request.given:
        return request.truth
    rest = request.truth[len(beginning(request.truth, request.given)) :]
    return rest if request.keeps_space else rest.lstrip()


def tasks_with_answers(requests: Iterable[Request]) -> set[str]:
    """The tasks whose true answers are scored."""
    return {request.task for request in requests if any(role == "answer" for role, *_ in request.answers)}


def as_example(encoder: Encoder, request: Request, answer: str) -> Example:
    """Token ids of prompt and answer; what is given of the answer belongs to the prompt.

    The border lies where the ids of the whole answer and of its beginning part. Raises EmptyAnswer if nothing is left to score.
    """
    encoder = encoder.bare if request.bare else encoder
    whole = encoder.example(request.asked, answer, request.before)
    given = beginning(answer, request.given)
    if not given:
        return whole
    known = encoder.example(request.asked, given, request.before)
    ids, begun = whole.prompt + whole.answer, known.prompt + known.answer
    border = max(common_length(ids, begun), len(whole.prompt))
    if border >= len(ids):
        raise EmptyAnswer(
            f"what is given of the answer to {request.question!r} fills max_length={encoder.max_length}: raise it, or give less"
        )
    return Example(ids[:border], ids[border:], lost=whole.lost)


def start(encoder: Encoder, request: Request) -> tuple[int, ...]:
    """Token ids that the model's own answer goes on from."""
    if not request.given or request.truth is None or not beginning(request.truth, request.given):
        return (encoder.bare if request.bare else encoder).generation_prompt(request.asked, request.before)
    # Running text brings the blank along that stands before it.
    same = (text for _, _, text in request.answers if text.strip() == request.truth.strip())
    return as_example(encoder, request, next(same, request.truth)).prompt
