"""A tokenizer's chat template, asked for one question and its answer: what it writes around them, on any day alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from utils.checks import did_you_mean, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRITTEN = "%d %b %Y"  # 26 Jul 2024: how chat templates print a date, and `template.date` is written
CLOCK = "26 Jul 2024"  # what the clock says that a template asks; Llama 3 falls back on the same day where it finds no clock
DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", "-S", *"aAbBcdeHIjmMpSuUwWxXyYZz")  # what a format may ask of the clock
OTHER_DAY = "01 Jan 2001"
# Two answers that share no beginning and no end: what both renderings share is the template's own.
ANSWERS = ("A", "B")
TAKEN = ("messages", "conversation", "tokenize", "add_generation_prompt", "chat_template", "date_string", "strftime_now")


class Turn(NamedTuple):
    """What was said before the question. role: system | user | assistant."""

    role: str
    text: str


@dataclass(frozen=True, eq=False)
class Chat:
    """What the chat template of `tokenizer` writes.

    system: None sends no system message (a template may then add its own), "" sends an empty one; a conversation that begins with
    a system message of its own keeps that. date: what templates that
    print a date are told, as in 26 Jul 2024; None: `date_string` stays undefined, and a template that asks the clock is told
    CLOCK, so that tomorrow's prompts are today's. options: other names that the template reads, such as enable_thinking.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    system: str | None = None
    date: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def opening(self, question: str, before: Sequence[Turn] = ()) -> str:
        """The conversation as a program would send it, up to where the template wants an answer to be written."""
        return self._written(question, None, before)

    def whole(self, question: str, answer: str, before: Sequence[Turn] = ()) -> str:
        """The conversation with its answer, and what closes it."""
        return self._written(question, answer, before)

    def header(self, question: str, before: Sequence[Turn] = ()) -> str:
        """All that stands before the answer's text: also the turn's header that `opening` may lack, and an empty think block.

        Raises ValueError if the template writes no answer at all.
        """
        renderings = [self._written(question, answer, before) for answer in ANSWERS]
        if renderings[0] == renderings[1]:
            raise ValueError("the chat template does not write what is answered: use template.kind=plain")
        return os.path.commonprefix(renderings)

    def check(self) -> None:
        """Raises ValueError for a template that fails, refuses the system message, or reads neither date nor option."""
        self.header("question")
        if self.date is not None and not self._reads(date=OTHER_DAY):
            raise ValueError(f"template.date={self.date}: the chat template prints no date; make it null")
        for name in self.options:
            if not self._reads(options={other: value for other, value in self.options.items() if other != name}):
                raise ValueError(
                    f"template.options.{name}: the chat template does not read it, or does the same without; leave it out"
                )

    def _reads(self, **changed: Any) -> bool:
        """Whether the template writes something else once a setting of this object is another."""
        other = Chat(
            **{"tokenizer": self.tokenizer, "system": self.system, "date": self.date, "options": self.options, **changed}
        )
        return any(self._written("question", answer) != other._written("question", answer) for answer in (None, "answer"))

    def _written(self, question: str, answer: str | None, before: Sequence[Turn] = ()) -> str:
        own_system = bool(before) and before[0].role == "system"
        messages = [] if self.system is None or own_system else [{"role": "system", "content": self.system}]
        messages += [{"role": turn.role, "content": turn.text} for turn in before]
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        # Passed only when set: a template asks whether date_string is defined, and None would be printed as a word.
        dated = {} if self.date is None else {"date_string": self.date}
        template = self.tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _clock(self.date or CLOCK) + template
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=answer is None, **dated, **self.options
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(self._why(error)) from error

    def _why(self, error: Exception) -> str:
        said = first_line(error)
        if self.system is not None:
            try:
                Chat(self.tokenizer, None, self.date, self.options).opening("question")
            except ValueError:
                pass
            else:
                return f"template.system={self.system!r}: the chat template refuses a system message ({said}); make it null"
        return f"template.kind=chat: the tokenizer's chat template cannot be rendered ({said}); use template.kind=plain"


@cache
def _clock(date: str) -> str:
    """Jinja source that puts a clock which stands still in the place of `strftime_now`; it writes nothing.

    A function cannot be handed to a template: the library turns everything that it passes on into plain data.
    """
    day = datetime.strptime(date, WRITTEN)
    replaced = "".join(f" | replace('%{letter}', '{day.strftime('%' + letter)}')" for letter in DIRECTIVES)
    # What stands after a tag may lose its line break, what stands after an expression does not.
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}{{ '' }}"


def check_options(options: object) -> dict[str, Any]:
    """The options as a plain dict, none for None. Raises ValueError for another value, and for names that are passed anyway."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ValueError(
            f"template.options={options}: write names and values that the chat template reads, {{enable_thinking: false}}"
        )
    for name in options:
        if name in TAKEN:
            raise ValueError(
                f"template.options.{name}: is set by other means{did_you_mean(name, ['date', 'system'])}; leave it out"
            )
    return {str(name): value for name, value in options.items()}


def check_date(date: str) -> None:
    """Raises ValueError for a date that is none, or is written another way."""
    try:
        datetime.strptime(date, WRITTEN)
    except (TypeError, ValueError) as error:
        raise ValueError(f"template.date={date}: write a day such as {CLOCK}") from error
