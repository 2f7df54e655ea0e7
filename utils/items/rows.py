"""What a benchmark trains on: a question with its answer, or a passage of running text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from utils.tokens.chat import Turn
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder


@dataclass(frozen=True)
class QA:
    """A question with its answer, as text. before: what was said before the question, in a conversation of several turns."""

    question: str
    answer: str
    before: tuple[Turn, ...] = field(default=(), kw_only=True)

    def example(self, encoder: Encoder) -> Example:
        """Its token ids. Raises EmptyAnswer if nothing of the answer fits."""
        return encoder.example(self.question, self.answer, self.before)

    def answered(self, answer: str) -> QA:
        """The same question with another answer."""
        return replace(self, answer=answer)


@dataclass(frozen=True)
class Text(QA):
    """Running text, as text: it goes on from `question`, which may be empty, and no template stands around it."""

    def example(self, encoder: Encoder) -> Example:
        """Its token ids, without an end. Raises EmptyAnswer if nothing of the answer fits."""
        return super().example(encoder.bare)


@dataclass(frozen=True)
class Passage(QA):
    """A piece of running text, already cut to token ids: nobody asks for it, and every id is supervised.

    question is empty, answer the text for people to read. ids: at least two; the BOS that the tokenizer adds stands before them.
    """

    ids: tuple[int, ...]

    def example(self, encoder: Encoder) -> Example:
        """BOS and the ids, as an evaluation reads a text; where the tokenizer adds no BOS, the first id is the prompt, which
        nothing could predict."""
        bos, added = encoder.tokenizer.bos_token_id, encoder.tokenizer("", verbose=False).input_ids[:1]
        return Example((bos,), self.ids) if bos is not None and added == [bos] else Example(self.ids[:1], self.ids[1:])

    def answered(self, answer: str) -> QA:
        """The answer to an empty question: it is no passage any more."""
        return QA(self.question, answer)
