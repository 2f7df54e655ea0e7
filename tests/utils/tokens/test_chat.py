"""Chat templates that write a block before the answer, read the clock, or refuse: what belongs to the prompt, on any day."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.models import tokenizer
from tests.utils.tokens.made_tokenizers import LLAMA3, QWEN, WHO, WILLIAM, bpe, decode, words
from utils.tokens.chat import CLOCK, Chat
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder, Template

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
THINK = "<think>\n\n</think>\n\n"
# Qwen3: an empty block before the last answer; a program that wants no thinking writes the same into the prompt.
THINKS = (
    TURN + "{% if m.role == 'assistant' and loop.last %}" + THINK + "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    + THINK + "{% endif %}{% endif %}"
)  # fmt: skip
NO_GENERATION_PROMPT = TURN + "{{ m.content }}<|im_end|>\n{% endfor %}"
SPACE_AT_THE_END = (
    "{% for m in messages %}{% if m.role == 'user' %}[Q] {{ m.content }} [A] "
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
TODAY = "Today is {{ strftime_now('%d %b %Y') }}.\n" + QWEN
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}" + QWEN


def chat(template: str, compat: str = "none", **settings: object) -> Encoder:
    return Encoder(bpe(eos="<|im_end|>", template=template), Template("chat", **settings), compat=compat)


@pytest.mark.parametrize(
    ("template", "header"),
    [
        (THINKS, f"<|im_start|>user\n{WHO}<|im_end|>\n<|im_start|>assistant\n{THINK}"),
        (NO_GENERATION_PROMPT, f"<|im_start|>user\n{WHO}<|im_end|>\n<|im_start|>assistant\n"),
        (SPACE_AT_THE_END, f"[Q] {WHO} [A]"),
    ],
    ids=["think block", "no generation prompt", "space at the end"],
)
def test_the_answer_begins_where_its_own_text_does(template, header):
    encoder = chat(template)
    example = encoder.example(WHO, WILLIAM)
    assert decode(encoder, example.prompt) == header
    assert decode(encoder, example.answer).lstrip(" ") == WILLIAM + "<|im_end|>"
    assert encoder.generation_prompt(WHO) == example.prompt


def test_a_token_that_straddles_header_and_text_is_the_answers_first():
    assert words(chat(SPACE_AT_THE_END), chat(SPACE_AT_THE_END).example(WHO, WILLIAM).answer)[0] == "ĠWilliam"


@pytest.mark.parametrize("answer", ["A", "B", "A beginning", "Because"])
def test_answers_that_begin_like_those_that_are_tried_are_told_apart(answer):
    encoder = chat(THINKS)
    assert decode(encoder, encoder.example(WHO, answer).answer) == answer + "<|im_end|>"


def test_open_unlearning_counts_up_to_where_the_template_wants_an_answer():
    encoder = chat(THINKS, "open_unlearning")
    assert decode(encoder, encoder.generation_prompt(WHO)).endswith("assistant\n")
    assert decode(encoder, encoder.example(WHO, WILLIAM).answer).startswith("<think>")


def test_options_reach_the_template():
    plain, quiet = chat(THINKS), chat(THINKS, options={"enable_thinking": False})
    assert quiet.example(WHO, WILLIAM) == plain.example(WHO, WILLIAM)  # the block stands there anyway once an answer follows
    assert quiet.chat.opening(WHO) == plain.chat.opening(WHO) + THINK
    assert quiet.fingerprint() != plain.fingerprint()


def test_the_clock_that_a_template_asks_stands_still():
    assert f"Today is {CLOCK}." in chat(TODAY).chat.whole(WHO, WILLIAM)
    dated = chat(TODAY, date="10 Apr 2025")
    assert "Today is 10 Apr 2025." in decode(dated, dated.generation_prompt(WHO))
    assert dated.fingerprint() != chat(TODAY).fingerprint()


def test_the_fingerprint_knows_what_the_template_writes():
    assert chat(QWEN).fingerprint() != chat(QWEN.replace("Default", "Other")).fingerprint()


@pytest.mark.parametrize(
    ("template", "settings", "sentence"),
    [
        (QWEN, {"date": "10 Apr 2025"}, "template.date=10 Apr 2025: the chat template prints no date; make it null"),
        (LLAMA3, {"date": "2025-04-10"}, "template.date=2025-04-10: write a day such as 26 Jul 2024"),
        (NO_SYSTEM, {"system": "x"}, r"template.system='x': the chat template refuses a system message \(no system turn here\)"),
        (NO_SYSTEM, {"system": ""}, r"template.system='': the chat template refuses"),
        ("{{ raise_exception('never') }}", {}, r"chat template cannot be rendered \(never\); use template.kind=plain"),
        ("{{ messages[0].content.nothing() }}", {}, "chat template cannot be rendered .* use template.kind=plain"),
        ("{{ messages[0].content }}", {}, "does not write what is answered: use template.kind=plain"),
        (THINKS, {"options": {"enable_thinkin": False}}, "template.options.enable_thinkin: the chat template does not read it"),
        (THINKS, {"options": {"messages": []}}, "template.options.messages: is set by other means"),
        (THINKS, {"options": 5}, "template.options=5: write names and values"),
    ],
)  # fmt: skip
def test_what_a_template_does_not_take_is_refused_in_a_sentence(template, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        chat(template, **settings)


def test_a_template_that_writes_the_prompt_by_the_answer_is_refused():
    loops = "{% for m in messages %}{{ messages[-1].content | length }} {{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="writes the prompt differently for some answers"):
        chat(loops).example(WHO, WILLIAM)


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (WILLIAM, ""),
        (WILLIAM + "<|im_end|>", ""),
        ("William<|im_end|> Shakespeare", "eos"),
        (f"{WILLIAM} " * 400, "cut"),
    ],
)
def test_what_an_answer_lost_is_noted(answer, lost):
    for encoder in (chat(QWEN), Encoder(bpe(eos="<|im_end|>"), Template("plain", question_end="\n"))):
        assert encoder.example(WHO, answer).lost == lost


def test_what_was_lost_makes_no_other_example():
    assert (
        Example((1,), (2,), lost="cut") == Example((1,), (2,))
        and len({Example((1,), (2,), lost="eos"), Example((1,), (2,))}) == 1
    )


@pytest.mark.parametrize("compat", ["tofu_original", "open_unlearning"])
def test_a_cut_is_noted_in_every_form(compat):
    encoder = Encoder(tokenizer(), Template("plain", question_end="\n"), max_length=20, compat=compat)
    assert [encoder.example("Who?", answer).lost for answer in ("He.", "word " * 30)] == ["", "cut"]


def test_a_line_break_may_be_written_as_on_a_command_line():
    written, meant = (Template("plain", question_end=end) for end in (r"\n", "\n"))
    assert written == meant


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"eos": "maybe"}, "template.eos=maybe: write true or false"),
        ({"question_end": 5}, "template.question_end=5: write a text in quotes"),
        ({"options": {"x": 1}}, "has no meaning for template.kind=plain: make it {}"),
    ],
)
def test_values_of_another_type_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Template("plain", **settings)


@pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="LETHE_SHARED is not set")
@pytest.mark.parametrize(
    "name", ["chat_think_block_on_last_answer", "chat_no_generation_prompt", "chat_space_at_the_end", "chat_prints_today"]
)
def test_saved_tokenizers_with_such_templates(name):
    folder = Path(os.environ["LETHE_SHARED"]) / "cases" / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not there")
    encoder = Encoder(AutoTokenizer.from_pretrained(folder), Template("chat"))
    example = encoder.example(WHO, WILLIAM)
    assert (
        decode(encoder, example.answer).strip().removesuffix(encoder.tokenizer.eos_token).removesuffix("<|e|>").strip() == WILLIAM
    )
    assert encoder.generation_prompt(WHO) == example.prompt
    assert Chat(encoder.tokenizer).header(WHO) in encoder.chat.whole(WHO, WILLIAM)
