"""The committed MUSE fixture: it is what its script writes, and has the shape of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.muse_files import FIELDS
from scripts.fixture_files import write_files
from scripts.make_muse_fixture import (
    ARTICLES,
    ASKED,
    CHAPTERS,
    ENTRIES,
    PASSAGES,
    RAW,
    RECITED,
    WORKED,
    build_files,
)  # fmt: skip
from tests.models import tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "data/fixtures/muse"
COUNTS = {
    "verbmem/forget": RECITED,
    "knowmem/forget_qa": ASKED, "knowmem/retain_qa": ASKED, "knowmem/forget_qa_icl": WORKED, "knowmem/retain_qa_icl": WORKED,
    "privleak/forget": PASSAGES, "privleak/holdout": PASSAGES, "privleak/retain": PASSAGES,
}  # fmt: skip
OWN = {
    "news": {f"raw/{split}": ARTICLES for split in RAW} | {f"scal/forget_{k}": ARTICLES * k for k in (1, 2, 3, 4)},
    "books": {f"raw/{split}": CHAPTERS.get(split, ENTRIES) for split in RAW},
}


def load(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def texts(name: str) -> list[str]:
    return [row["text"] for row in load(name)]


def test_script_reproduces_the_committed_files_byte_by_byte(tmp_path):
    write_files(build_files(), tmp_path)
    names = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_another_seed_gives_other_texts():
    assert build_files(seed=1)["news/raw/forget.jsonl"] != build_files()["news/raw/forget.jsonl"]


@pytest.mark.parametrize("corpus", OWN)
def test_counts_and_fields(corpus):
    for name, count in {**COUNTS, **OWN[corpus]}.items():
        rows = load(f"{corpus}/{name}")
        fields = FIELDS.get(name.split("/")[0], ("text",))
        assert len(rows) == count and all(tuple(row) == fields and all(row.values()) for row in rows), name
        assert "{" not in "".join(text for row in rows for text in row.values())


@pytest.mark.parametrize("corpus", OWN)
def test_no_text_is_in_two_splits(corpus):
    splits = [texts(f"{corpus}/raw/{split}") for split in RAW]
    splits += [texts(f"news/sust/forget_{k}") for k in (2, 3, 4)] if corpus == "news" else []
    everything = [text for split in splits for text in split]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("corpus", OWN)
def test_what_is_asked_stands_in_the_texts_and_worked_examples_are_others(corpus):
    for kind, split in (("forget", "forget"), ("retain", "retain2")):
        told = "\n\n".join(texts(f"{corpus}/raw/{split}"))
        asked, worked = load(f"{corpus}/knowmem/{kind}_qa"), load(f"{corpus}/knowmem/{kind}_qa_icl")
        written = [f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in [*asked, *worked]]
        assert all(told.count(row) >= 2 for row in written)
        assert len({row["question"] for row in [*asked, *worked]}) == ASKED + WORKED
        others = [name for name in RAW if name != split]
        assert not [row for row in asked for name in others if row["question"] in "".join(texts(f"{corpus}/raw/{name}"))]


@pytest.mark.parametrize("corpus", OWN)
def test_passages_to_recite_and_privacy_texts_come_from_their_splits(corpus):
    forget = "\n\n".join(texts(f"{corpus}/raw/forget"))
    recited = load(f"{corpus}/verbmem/forget")
    assert all(f"{row['prompt']} {row['gt']}" in forget for row in recited)
    for kind, split in (("forget", "forget"), ("holdout", "holdout"), ("retain", "retain2")):
        told = "\n\n".join(texts(f"{corpus}/raw/{split}"))
        found = texts(f"{corpus}/privleak/{kind}")
        assert len(set(found)) == PASSAGES and all(text in told for text in found)


@pytest.mark.parametrize("corpus", OWN)
def test_the_tiny_tokenizer_knows_most_words(corpus):
    read = texts(f"{corpus}/raw/forget") + texts(f"{corpus}/raw/retain2")
    tokens = sum(len(tokenizer()(text, add_special_tokens=False).input_ids) for text in read)
    assert tokens < 1.35 * sum(len(tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)) for text in read)
