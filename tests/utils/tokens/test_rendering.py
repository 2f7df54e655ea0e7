"""What a person looks at (show) and what a cache goes by (fingerprint)."""

from __future__ import annotations

from transformers import AutoTokenizer

from tests.utils.tokens.made_tokenizers import GEMMA, INST, QWEN, TAGS, WHO, WILLIAM, Letters, bpe, decode, sentencepiece
from utils import ROOT
from utils.tokens.prompts import Encoder, Template


def test_show_marks_every_supervised_token():
    encoder = Encoder(bpe(), TAGS)
    text = encoder.show(encoder.example(WHO, WILLIAM))
    assert text == "<bos>Question: Who wrote Hamlet?\nAnswer:⟦ William⟧⟦ Shakespeare⟧⟦<eos>⟧"
    assert encoder.show(encoder.example(WHO, WILLIAM), color=True).startswith("\x1b[2m<bos>")


def test_show_of_spaces_newlines_and_split_characters():
    encoder = Encoder(sentencepiece(), TAGS)
    assert encoder.show(encoder.example(WHO, WILLIAM)).endswith("Answer:⟦ William⟧⟦ Shakespeare⟧⟦<eos>⟧")
    encoder = Encoder(bpe(), TAGS)
    example = encoder.example("x", "é\n")
    shown = encoder.show(example)
    assert shown.count("⟦") == len(example.answer) and "é⟧" in shown and "⟦⏎⟧" in shown


def test_fingerprint_changes_with_what_changes_the_ids_and_with_nothing_else():
    def of(tokenizer=bpe, template=TAGS, length=512, compat="none"):
        return Encoder(tokenizer(), template, length, compat).fingerprint

    padded = lambda: bpe(pad="<eos>")  # noqa: E731
    same, others = of(), {of(padded)}
    used = Encoder(padded(), TAGS)
    # such a call leaves its padding and truncation in a fast tokenizer
    used.tokenizer(["a", "b c"], padding="max_length", truncation=True, max_length=4)
    assert {used.fingerprint} == others and len(same) == 16
    others |= {of(sentencepiece), of(template=INST), of(length=511), of(compat="tofu_original"), of(Letters)}
    others |= {of(lambda: bpe(eos="<|im_end|>"))}
    chats = {Encoder(bpe(template=text), Template("chat")).fingerprint for text in (QWEN, GEMMA)}
    assert len(others | chats | {same}) == 10


def test_the_shipped_tokenizer_and_no_setting_of_the_machine(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/fixtures/tiny_tokenizer")
    encoder = Encoder(tokenizer, TAGS)
    example = encoder.example("Who?", WILLIAM)
    assert example.prompt[0] == tokenizer.bos_token_id == 0 and example.answer[-1] == tokenizer.eos_token_id == 1
    assert encoder.pad_id == 2 and decode(encoder, example.answer) == " William Shakespeare<|eos|>"
    tokenizer.save_pretrained(tmp_path)
    assert Encoder(AutoTokenizer.from_pretrained(tmp_path), TAGS).fingerprint == encoder.fingerprint
