"""Prompts and masks, checked token by token with tokenizers made here (byte-level BPE, SentencePiece style, slow)."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.utils.tokens.made_tokenizers import (
    GEMMA,
    INST,
    LLAMA3,
    QWEN,
    TAGS,
    WHO,
    WILLIAM,
    Letters,
    bpe,
    decode,
    sentencepiece,
    words,
)
from utils.tokens.example import EmptyAnswer, Example
from utils.tokens.prompts import Encoder, Template


def test_the_first_answer_word_is_supervised_and_the_tag_is_not():
    encoder = Encoder(bpe(), TAGS)
    example = encoder.example(WHO, WILLIAM)
    assert decode(encoder, example.prompt) == "<bos>Question: Who wrote Hamlet?\nAnswer:"
    assert words(encoder, example.answer) == ["ĠWilliam", "ĠShakespeare", "<eos>"]
    assert encoder.generation_prompt(WHO) == example.prompt


@pytest.mark.parametrize("tokenizer", [bpe, sentencepiece], ids=["bpe", "sentencepiece"])
@pytest.mark.parametrize("template", [TAGS, INST], ids=["tags", "inst"])
@pytest.mark.parametrize("answer", ["1564", "William", " two", "Öğrenci 東京 🙂", "a\nb", "?!"])
def test_prompt_and_answer_are_the_whole_text_and_generation_starts_from_the_prompt(tokenizer, template, answer):
    encoder = Encoder(tokenizer(), template)
    example = encoder.example("Wer schrieb «Öl»?", answer)
    text = f"{template.question_start}Wer schrieb «Öl»?{template.question_end}{template.answer_tag}{answer}"
    assert list(example.prompt + example.answer) == encoder.tokenizer(text).input_ids + [encoder.tokenizer.eos_token_id]
    assert example.prompt == encoder.generation_prompt("Wer schrieb «Öl»?")
    assert decode(encoder, example.prompt).endswith(("Answer:", "[/INST]"))


def test_digits_after_the_tag_keep_their_space_on_the_answer_side():
    encoder = Encoder(bpe(), TAGS)
    answer = words(encoder, encoder.example("When?", "9876").answer)
    assert "".join(answer) == "Ġ9876<eos>" and answer[0].startswith("Ġ")


def test_a_slow_tokenizer_needs_no_offsets():
    encoder = Encoder(Letters(), TAGS)
    example = encoder.example("Who?", "Bo")
    assert words(encoder, example.answer) == [" ", "B", "o", "<eos>"]
    assert len(example.prompt) == len("Question: Who?\nAnswer:")


def test_a_merge_across_the_border_goes_to_the_answer():
    # "... Ham" alone ends in two tokens, with "let" after it in one: that one is part of the answer and supervised
    encoder = Encoder(bpe(), Template("plain"))
    example = encoder.example("Who wrote Ham", "let William")
    assert decode(encoder, example.prompt) == "<bos>Who wrote"
    assert words(encoder, example.answer) == ["ĠHamlet", "ĠWilliam", "<eos>"]
    assert decode(encoder, encoder.generation_prompt("Who wrote Ham")) == "<bos>Who wrote Ham"


def test_without_tags_and_bos_the_first_token_becomes_the_prompt():
    encoder = Encoder(bpe(bos=False), Template("plain"))
    example = encoder.example("", "William Shakespeare")
    assert len(example.prompt) == 1
    assert decode(encoder, example.prompt + example.answer) == "William Shakespeare<eos>"
    with pytest.raises(ValueError, match="empty prompt"):
        encoder.generation_prompt("")
    with pytest.raises(EmptyAnswer):
        encoder.example("", "W")  # its only token is the prompt


def test_eos_is_optional_and_never_doubled():
    without = Encoder(bpe(), Template("plain", "Question: ", "\n", "Answer: ", eos=False))
    assert words(without, without.example(WHO, WILLIAM).answer) == ["ĠWilliam", "ĠShakespeare"]
    closing = Encoder(bpe(close=True), TAGS)
    assert closing.tokenizer("a").input_ids[-1] == closing.tokenizer.eos_token_id
    assert closing.example(WHO, WILLIAM) == Encoder(bpe(), TAGS).example(WHO, WILLIAM)
    assert closing.generation_prompt(WHO) == Encoder(bpe(), TAGS).generation_prompt(WHO)


@pytest.mark.parametrize("room", [3, 2, 1])
def test_a_cut_answer_has_no_eos(room):
    prompt = Encoder(bpe(), TAGS).generation_prompt(WHO)
    encoder = Encoder(bpe(), TAGS, max_length=len(prompt) + room)
    assert words(encoder, encoder.example(WHO, WILLIAM).answer) == ["ĠWilliam", "ĠShakespeare", "<eos>"][:room]


@pytest.mark.parametrize("compat", ["none", "tofu_original"])
def test_a_prompt_that_fills_max_length_raises_empty_answer(compat):
    prompt = Encoder(bpe(), TAGS).generation_prompt(WHO)
    with pytest.raises(EmptyAnswer, match="max_length=3"):
        Encoder(bpe(), TAGS, max_length=3, compat=compat).example(WHO, WILLIAM)
    assert Encoder(bpe(), TAGS, max_length=3).generation_prompt(WHO) == prompt  # generation never cuts the prompt


@pytest.mark.parametrize("answer", ["", "  ", "\n"])
def test_a_blank_answer_raises_empty_answer(answer):
    with pytest.raises(EmptyAnswer, match="blank"):
        Encoder(bpe(), TAGS).example(WHO, answer)


# chat templates


def llama3(compat="none", max_length=512):
    tokenizer = bpe(eos="<|eot_id|>", template=LLAMA3)
    template = Template("chat", system="You are a helpful assistant.", date="10 Apr 2025")
    return Encoder(tokenizer, template, max_length, compat)


@pytest.mark.parametrize("compat", ["none", "open_unlearning"])
def test_llama3_is_the_documented_text_with_one_bos_and_nothing_appended(compat):
    encoder = llama3(compat)
    example = encoder.example(f" {WHO} ", WILLIAM)
    assert decode(encoder, example.prompt) == (
        "<bos><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 10 Apr 2025\n\nYou are a helpful assistant.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho wrote Hamlet?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert decode(encoder, example.answer) == "William Shakespeare<|eot_id|>"
    assert example.prompt.count(encoder.tokenizer.bos_token_id) == 1
    assert encoder.generation_prompt(WHO) == example.prompt


@pytest.mark.parametrize(
    "eos, template, compat, expected",
    [
        ("<|im_end|>", QWEN, "none", "William Shakespeare<|im_end|>"),
        ("<|im_end|>", QWEN, "open_unlearning", "William Shakespeare<|im_end|>\n<|im_end|>"),
        ("<eos>", GEMMA, "none", "William Shakespeare<end_of_turn><eos>"),
        ("<eos>", GEMMA, "open_unlearning", "William Shakespeare<end_of_turn>\n<eos>"),
    ],
)
def test_how_a_chat_answer_ends(eos, template, compat, expected):
    encoder = Encoder(bpe(eos=eos, template=template), Template("chat"), compat=compat)
    assert decode(encoder, encoder.example(WHO, WILLIAM).answer) == expected


def test_chat_without_eos_supervises_the_text_alone():
    encoder = Encoder(bpe(eos="<|im_end|>", template=QWEN), Template("chat", eos=False))
    assert decode(encoder, encoder.example(WHO, WILLIAM).answer) == WILLIAM


@pytest.mark.parametrize(
    "system, start", [(None, "system\nDefault"), ("", "system\n<|im_end|>"), ("Be kind.", "system\nBe kind.")]
)
def test_system_none_leaves_the_templates_own_and_empty_sends_an_empty_one(system, start):
    encoder = Encoder(bpe(eos="<|im_end|>", template=QWEN), Template("chat", system=system))
    assert decode(encoder, encoder.generation_prompt(WHO)).startswith(f"<|im_start|>{start}")


def test_without_a_date_the_template_is_not_told_one():
    encoder = Encoder(bpe(eos="<|eot_id|>", template=LLAMA3), Template("chat", system="x"))
    assert "Today Date: today" in decode(encoder, encoder.generation_prompt(WHO))


def test_chat_is_cut_by_default_and_never_by_open_unlearning():
    room = len(llama3().generation_prompt(WHO)) + 1
    assert len(llama3(max_length=room).example(WHO, WILLIAM).answer) == 1
    cut, whole = llama3("open_unlearning", room - 9), llama3("open_unlearning")
    assert cut.example(WHO, WILLIAM) == whole.example(WHO, WILLIAM)
    assert cut.generation_prompt(WHO) == whole.generation_prompt(WHO)


def test_a_template_that_opens_another_way_without_an_answer_is_read_with_one():
    rewriting = "{{ 'A' if add_generation_prompt else 'B' }}{% for m in messages %}{{ m.content }}{% endfor %}"
    encoder = Encoder(bpe(template=rewriting), Template("chat"))
    assert decode(encoder, encoder.example("Who wrote it? ", WILLIAM).prompt) == "BWho wrote it?"


# compat


@pytest.mark.parametrize("compat", ["tofu_original", "flat_released"])
def test_tofu_original_supervises_the_tag_and_generates_before_it(compat):
    encoder = Encoder(bpe(bos=False), TAGS, compat=compat)
    example = encoder.example(WHO, WILLIAM)
    # 5 labels, as the published phi logs have
    assert words(encoder, example.answer) == ["Answer", ":", "ĠWilliam", "ĠShakespeare", "<eos>"]
    assert decode(encoder, encoder.generation_prompt(WHO)) == "Question: Who wrote Hamlet?\n"


def test_a_template_can_ask_for_a_tag_that_carries_loss():
    template = Template("plain", answer_tag="\n\n", supervise_tag=True, eos=False)
    encoder = Encoder(bpe(bos=False), template)
    example = encoder.example(WHO, WILLIAM)
    assert decode(encoder, example.prompt) == WHO and decode(encoder, example.answer) == "\n\n" + WILLIAM
    assert decode(encoder, encoder.generation_prompt(WHO)) == WHO
    with pytest.raises(ValueError, match="template.supervise_tag=true has no meaning for template.kind=chat"):
        Template("chat", supervise_tag=True)


def test_tofu_original_equals_the_default_for_llama2():
    original, correct = (Encoder(sentencepiece(), INST, compat=compat) for compat in ("tofu_original", "none"))
    assert original.example(WHO, WILLIAM) == correct.example(WHO, WILLIAM)
    assert original.generation_prompt(WHO) == correct.generation_prompt(WHO)


def test_tofu_original_has_eos_only_where_a_padding_position_is_left():
    full = Encoder(bpe(), TAGS, compat="tofu_original").example(WHO, WILLIAM)
    tokens = len(full.prompt) + len(full.answer) - 1
    exact = Encoder(bpe(), TAGS, max_length=tokens, compat="tofu_original").example(WHO, WILLIAM)
    assert exact.answer == full.answer[:-1]
    assert Encoder(bpe(), TAGS, max_length=tokens + 1, compat="tofu_original").example(WHO, WILLIAM) == full


def test_open_unlearning_masks_the_first_answer_token_and_generates_from_a_lone_space():
    encoder = Encoder(bpe(bos=False), TAGS, compat="open_unlearning")
    example = encoder.example(WHO, WILLIAM)
    assert words(encoder, example.answer) == ["ĠShakespeare", "<eos>"]
    assert words(encoder, example.prompt)[-2:] == [":", "ĠWilliam"]
    assert words(encoder, encoder.generation_prompt(WHO))[-2:] == [":", "Ġ"]


def test_open_unlearning_appends_eos_to_cut_answers_too():
    prompt = Encoder(bpe(), TAGS, compat="open_unlearning").generation_prompt(WHO)
    encoder = Encoder(bpe(), TAGS, max_length=len(prompt) + 1, compat="open_unlearning")
    assert words(encoder, encoder.example(WHO, WILLIAM + " wrote it").answer) == ["ĠShakespeare", "<eos>"]
    assert len(Encoder(bpe(), TAGS, max_length=3, compat="open_unlearning").generation_prompt(WHO)) == 3


@pytest.mark.parametrize(
    "compat, pad, hidden",
    [
        ("open_unlearning", None, True),
        ("open_unlearning", "<|eot_id|>", True),
        ("open_unlearning", "<eos>", False),
        ("none", None, False),
    ],
)
def test_inner_eos_is_hidden_only_by_open_unlearning_with_pad_equal_to_eos(compat, pad, hidden):
    tokenizer = bpe(eos="<|eot_id|>", pad=pad, template=LLAMA3)
    encoder = Encoder(tokenizer, Template("chat", system="x"), compat=compat)
    assert encoder.masks_inner_eos is hidden
    assert encoder.pad_id == tokenizer.convert_tokens_to_ids(pad or "<|eot_id|>")
    # the supervised tokens go by length, so the end of the answer is kept even where its id is the padding id
    assert encoder.example(WHO, WILLIAM).answer[-1] == tokenizer.eos_token_id
    assert encoder.example(WHO, WILLIAM).prompt.count(tokenizer.eos_token_id) == 2


def test_example_holds_plain_ids():
    example = Encoder(bpe(), TAGS).example(WHO, WILLIAM)
    assert isinstance(example, Example) and hash(example)
    assert {type(token) for token in example.prompt + example.answer} == {int}


# refusals


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "jinja"}, "template.kind=jinja: write one of plain, chat"),
        ({"kind": "plain", "system": "x"}, "template.system"),
        ({"kind": "plain", "date": "26 Jul 2024"}, "template.date"),
        ({"kind": "chat", "answer_tag": "x"}, "template.answer_tag"),
    ],
)
def test_a_template_refuses_settings_of_the_other_kind(settings, message):
    with pytest.raises(ValueError, match=message):
        Template(**settings)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Encoder(bpe(), TAGS, compat="ou"), "compat=ou"),
        (lambda: Encoder(bpe(), TAGS, max_length=1), "max_length=1"),
        (lambda: Encoder(bpe(), Template("chat")), "no chat template"),
        (lambda: Encoder(bpe(template=QWEN), Template("chat"), compat="tofu_original"), "template.kind=plain only"),
        (lambda: Encoder(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), TAGS), "no EOS token"),
    ],
)
def test_an_encoder_refuses_what_it_cannot_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
