"""From (question, answer) to token ids: which tokens are read and which are supervised.

The text is tokenised once, as a whole. The prompt is its longest common token prefix with the prompt tokenised alone
(trailing spaces removed: byte-pair vocabularies glue them to the word that follows); every later token is supervised.
So with the tag `Answer: ` the token ` Shakespeare` carries loss, the tag does not, and generation starts from ids that
training has seen. In a chat the answer begins where the answer's own text does: whatever the template puts before it, a turn's
header or an empty think block, belongs to the prompt, in training, scoring and generation alike.

Released code counts differently; `compat` reproduces it:

    tofu_original    (also flat_released and meow_released, which took it over) the prompt is counted without the answer tag,
                     so the tag carries loss; generation starts before the tag. Plain templates only.
    open_unlearning  the prompt is counted with its trailing space, so the first answer token may carry no loss; EOS is
                     appended to cut answers too, and again after a chat template's final newline; chats are never cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, get_args

from utils.checks import choose, flag, require
from utils.tokens.chat import Chat, Turn, check_date, check_options
from utils.tokens.example import EmptyAnswer, Example, common_length
from utils.tokens.rendering import is_newline, show, tokenizer_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Parts = tuple[list[int], list[int], bool]
"""Ids of the prompt, ids that are supervised, whether the answer was cut to fit."""
Compat = Literal["none", "tofu_original", "open_unlearning", "flat_released", "muse_released", "meow_released"]


@dataclass(frozen=True)
class Template:
    """How a question and an answer become one text: the `template` node of config/model/*.yaml.

    plain: question_start + question + question_end + answer_tag + answer, with the tokenizer's own BOS if it has one.
    chat: the tokenizer's chat template; system, date, options: see Chat.
    eos: whether the end of the answer (EOS) is supervised; an answer cut at max_length never has one.
    supervise_tag: the prompt is counted in tokens without the answer tag, so that the tag carries loss (plain only).
    In texts a backslash with n or t after it means a line break or a tab, as in "\\n" on a command line, where no shell and no
    YAML turns it into one. Raises ValueError for an unknown kind, a value of the wrong type, or a setting of the other kind.
    """

    kind: Literal["plain", "chat"]
    question_start: str = ""
    question_end: str = ""
    answer_tag: str = ""
    system: str | None = None
    date: str | None = None
    options: Mapping[str, Any] | None = None
    eos: bool = True
    supervise_tag: bool = False

    def __post_init__(self) -> None:
        choose("template.kind", self.kind, ("plain", "chat"))
        flag("template.eos", self.eos)
        flag("template.supervise_tag", self.supervise_tag)
        object.__setattr__(self, "options", check_options(self.options))
        for name in ("question_start", "question_end", "answer_tag", "system"):
            text = getattr(self, name)
            require(isinstance(text, str) or text is None and name == "system", f"template.{name}", text, "a text in quotes")
            if text:
                object.__setattr__(self, name, text.replace("\\n", "\n").replace("\\t", "\t"))
        if self.date is not None:
            check_date(self.date)
        if self.supervise_tag and self.kind == "chat":
            raise ValueError("template.supervise_tag=true has no meaning for template.kind=chat: make it false")
        tags = {"question_start": self.question_start, "question_end": self.question_end, "answer_tag": self.answer_tag}
        chat_only = {"system": self.system, "date": self.date, "options": self.options or None}
        foreign = chat_only if self.kind == "plain" else {name: text or None for name, text in tags.items()}
        for name, value in foreign.items():
            if value is not None:
                remedy = "null" if self.kind == "plain" else 'an empty string ("")'
                raise ValueError(f"template.{name}={value!r} has no meaning for template.kind={self.kind}: make it {remedy}")


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes questions and answers for one tokenizer and template.

    max_length: tokens in all, prompt, answer and EOS. The answer is cut, the prompt never is.
    Raises ValueError if the tokenizer lacks the chat template or EOS that the settings need, or `compat` does not fit.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    template: Template
    max_length: int = 512
    compat: Compat = "none"

    def __post_init__(self) -> None:
        name = self.tokenizer.name_or_path or type(self.tokenizer).__name__
        if self.compat not in get_args(Compat):
            raise ValueError(f"compat={self.compat}: write one of {', '.join(get_args(Compat))}")
        if self.max_length < 2:
            raise ValueError(f"max_length={self.max_length}: a prompt and an answer need at least 2 tokens")
        if self.template.kind == "chat" and self._counts_without_tag:
            raise ValueError(f"compat={self.compat} is defined for template.kind=plain only: change one of the two")
        if self.template.kind == "chat" and self.tokenizer.chat_template is None:
            raise ValueError(f"template.kind=chat, but tokenizer {name} has no chat template: use template.kind=plain")
        if self.template.kind == "chat":
            self.chat.check()
        if self.template.eos and self.tokenizer.eos_token_id is None:
            raise ValueError(f"template.eos=true, but tokenizer {name} has no EOS token: use template.eos=false")

    @cached_property
    def chat(self) -> Chat:
        """The tokenizer's chat template with the settings of `template`."""
        return Chat(self.tokenizer, self.template.system, self.template.date, self.template.options or {})

    @property
    def pad_id(self) -> int | None:
        """The id to pad with: the tokenizer's, else EOS. Masks go by length, so EOS in the text stays visible."""
        return self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    @property
    def masks_inner_eos(self) -> bool:
        """Whether attention must skip every id equal to `pad_id`, inside the prompt too, as open-unlearning does.

        It derives the attention mask from token values: with pad = EOS (Llama-3 Instruct) the end-of-turn tokens of the
        prompt are hidden from the model, in training and in evaluation. Elsewhere False.
        """
        return self.compat == "open_unlearning" and self.pad_id == self.tokenizer.eos_token_id

    @property
    def limits_both(self) -> bool:
        """Whether prompt and continuation share one limit and white space stays, as TOFU's evaluation has it, MEOW's too."""
        return self.compat in ("tofu_original", "meow_released")

    @cached_property
    def bare(self) -> Encoder:
        """The same tokenizer for running text: nothing stands around it but the tokenizer's BOS, and it has no end."""
        return replace(self, template=Template(kind="plain", eos=False), compat="none")

    def example(self, question: str, answer: str, before: Sequence[Turn] = ()) -> Example:
        """Token ids of the pair, and of the turns before it. Raises EmptyAnswer if nothing of the answer fits in max_length."""
        if not answer.strip():
            raise EmptyAnswer(f"the answer to {question!r} is blank: drop the row")
        if self._counts_without_tag:
            prompt, supervised, cut = self._tofu_original(question, answer, before)
        elif self.compat == "open_unlearning":
            prompt, supervised, cut = self._open_unlearning(question, answer, before)
        else:
            prompt, supervised, cut = self._whole_text(question, answer, before)
        if not supervised:
            raise EmptyAnswer(
                f"no token of the answer to {question!r} fits in max_length={self.max_length}: raise it or drop the row"
            )
        eos = self.tokenizer.eos_token
        # An end that is written at the end takes nothing away.
        ends_early = bool(eos) and eos in answer.strip().removesuffix(eos)
        return Example(tuple(prompt), tuple(supervised), lost="eos" if ends_early else "cut" if cut else "")

    def generation_prompt(self, question: str, before: Sequence[Turn] = ()) -> tuple[int, ...]:
        """Token ids to generate the answer from; never cut, but for compat open_unlearning with a plain template.

        Equal to the prompt of `example`, unless the vocabulary merges the prompt's end with the answer's beginning.
        Raises ValueError if there is no token at all (an empty text and a tokenizer without BOS).
        """
        text = self._question_text(question, before) if self._counts_without_tag else self._prompt_text(question, before)
        ids = self._ids(text)
        if self.compat == "open_unlearning" and self.template.kind == "plain":
            ids = ids[: self.max_length]
        if not ids:
            raise ValueError(f"question {question!r} gives an empty prompt: a model needs a token to start from")
        return tuple(ids)

    def show(self, example: Example, color: bool = False) -> str:
        """The prompt as text, then each supervised token in ⟦ ⟧; `color` dims the prompt on a terminal."""
        return show(self.tokenizer, example.prompt, example.answer, color)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything that changes the ids: tokenizer, template, max_length, compat."""
        # Kept: a tokenizer with a large vocabulary takes about a second to describe itself.
        state = {
            "tokenizer": tokenizer_state(self.tokenizer),
            "chat": self.chat.whole("question", "answer") if self.template.kind == "chat" else None,
            "template": asdict(self.template),
            "max_length": self.max_length,
            "compat": self.compat,
        }
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _counts_without_tag(self) -> bool:
        return self.template.supervise_tag or self.compat in ("tofu_original", "flat_released", "meow_released")

    def _whole_text(self, question: str, answer: str, before: Sequence[Turn]) -> Parts:
        text = self._prompt_text(question, before)
        full = self._full_text(question, answer, before)
        if not full.startswith(text):
            raise ValueError(
                "the chat template writes the prompt differently for some answers, so the two cannot be told apart: use "
                "template.kind=plain"
            )
        ids = self._ids(full)
        # Without tags and BOS nothing stands before the text's first token: nothing predicts it, so it is the prompt.
        border = max(1, common_length(self._ids(text), ids))
        words = self._without_end(ids[border:])
        if not words:
            return ids[:border], [], False
        end, room = [self.tokenizer.eos_token_id] if self.template.eos else [], max(0, self.max_length - border)
        return ids[:border], (words + end)[:room], len(words) > room

    def _without_end(self, answer: list[int]) -> list[int]:
        """The answer up to its first EOS; without one, less a chat template's closing newline (end-of-turn stays)."""
        eos = self.tokenizer.eos_token_id
        if eos in answer:
            return answer[: answer.index(eos)]
        while self.template.kind == "chat" and answer and is_newline(self.tokenizer, answer[-1]):
            answer = answer[:-1]
        return answer

    def _tofu_original(self, question: str, answer: str, before: Sequence[Turn]) -> Parts:
        border = len(self._ids(self._question_text(question, before)))
        whole = self._ids(self._full_text(question, answer, before))
        ids = whole[: self.max_length]
        if self.template.eos and len(ids) < self.max_length:  # EOS is the first padding label: a full row has none
            ids.append(self.tokenizer.eos_token_id)
        return ids[:border], ids[border:], len(whole) > self.max_length

    def _open_unlearning(self, question: str, answer: str, before: Sequence[Turn]) -> Parts:
        limit = self.max_length if self.template.kind == "plain" else None
        border = len(self._ids(self._prompt_text(question, before))[:limit])
        whole = self._ids(self._full_text(question, answer, before))
        ids = whole[:limit]
        if self.template.eos and ids[-1] != self.tokenizer.eos_token_id:
            ids.append(self.tokenizer.eos_token_id)
        border = max(1, border)  # without tags and BOS nothing predicts the first token
        return ids[:border], ids[border:], limit is not None and len(whole) > limit

    def _question_text(self, question: str, before: Sequence[Turn]) -> str:
        return "".join(self._earlier(before)) + self.template.question_start + question + self.template.question_end

    def _earlier(self, before: Sequence[Turn]) -> Iterator[str]:
        """The turns before the question as a plain template writes them: one block after the other, blank lines in between."""
        for turn, following in zip_longest(before, before[1:]):
            if turn.role == "user":
                answered = following is not None and following.role == "assistant"
                yield self.template.question_start + turn.text + self.template.question_end + ("" if answered else "\n\n")
            else:
                yield (self.template.answer_tag if turn.role == "assistant" else "") + turn.text + "\n\n"

    def _prompt_text(self, question: str, before: Sequence[Turn]) -> str:
        if self.template.kind == "chat" and self.compat == "open_unlearning":
            return self.chat.opening(question, before)
        if self.template.kind == "chat":
            text = self.chat.header(question, before)
        else:
            text = self._question_text(question, before) + self.template.answer_tag
        return text if self.compat in ("open_unlearning", "muse_released") else text.rstrip(" ")

    def _full_text(self, question: str, answer: str, before: Sequence[Turn]) -> str:
        if self.template.kind == "chat":
            return self.chat.whole(question, answer, before)
        return self._question_text(question, before) + self.template.answer_tag + answer

    def _ids(self, text: str) -> list[int]:
        # A chat template writes its own BOS: special tokens on top of it would double it.
        ids = self.tokenizer(text, add_special_tokens=self.template.kind == "plain", verbose=False).input_ids
        # Some tokenizers close every text with EOS; where the answer ends is decided here alone.
        closed = bool(ids) and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token)
        return ids[:-1] if closed else ids
