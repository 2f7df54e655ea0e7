"""The committed tokenizer of the fixtures: retraining gives it again, and it does what the tiny model needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scripts.make_tiny_tokenizer import read_corpus, save_tokenizer, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data/fixtures/tiny_tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


def test_retraining_gives_the_committed_tokenizer(tmp_path):
    save_tokenizer(train_tokenizer(read_corpus()), tmp_path)
    again, committed = (json.loads((folder / "tokenizer.json").read_text("utf-8")) for folder in (tmp_path, FOLDER))
    assert again["model"]["vocab"] == committed["model"]["vocab"]
    assert again["model"]["merges"] == committed["model"]["merges"]


def test_special_tokens_and_sizes(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert len(tokenizer) == 2048 and tokenizer.model_max_length == 512


def test_bos_in_front_and_no_eos(tokenizer):
    ids = tokenizer("Who taught them?").input_ids
    assert ids[0] == 0 and ids.count(0) == 1 and 1 not in ids
    assert ids[1:] == tokenizer("Who taught them?", add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    "text", ["Iğavia Søndergård, é", "東京 – 🙂", " two  spaces\n\nand\ttabs ", "don't , stop .", "", "\x00\x7f"]
)
def test_any_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_every_byte_is_a_token(tokenizer):
    assert sum(len(token) == 1 for token in tokenizer.get_vocab()) == 256


def test_fixture_rows_are_short(tokenizer):
    lines = (ROOT / "data/fixtures/tofu/full.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    lengths = [len(tokenizer(f"{row['question']} {row['answer']}").input_ids) for row in rows]
    assert sum(lengths) / len(lengths) < 25 and max(lengths) <= 32


def test_too_little_text_is_refused():
    with pytest.raises(ValueError, match="not 2048: add text or lower VOCABULARY"):
        train_tokenizer(["one short sentence"])


def test_missing_fixture_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="make_tofu_fixture.py"):
        read_corpus(fixture=tmp_path)
