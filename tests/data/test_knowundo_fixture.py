"""The committed KnowUnDo fixture: it is what its script writes, and has the shape of the benchmark."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from scripts.fixture_files import write_files
from scripts.make_knowundo_fixture import N_AUTHORS, N_BOOKS, UNLEARN_ONLY, build_files, people
from tests.models import tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "data/fixtures/knowundo"
COUNTS = {
    "privacy/unlearn_train": 72, "privacy/unlearn_val": 24, "privacy/retention_train": 88, "privacy/retention_val": 22,
    "copyright/unlearn_train": 48, "copyright/unlearn_val": 16, "copyright/retention_train": 64, "copyright/retention_val": 16,
    "privacy/bystanders": 72, "copyright/bystanders": 72,
}  # fmt: skip
LISTS = [name for name in COUNTS if "bystanders" not in name]
DOMAINS = ("privacy", "copyright")
AUTHORS = people()[:N_AUTHORS]


def load(name: str) -> list[dict[str, str]]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def general() -> list[str]:
    return [json.loads(line)["text"] for line in (FOLDER / "general/retain.jsonl").read_text(encoding="utf-8").splitlines()]


def relative(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_script_reproduces_the_committed_files_byte_by_byte(tmp_path):
    write_files(build_files(), tmp_path)
    assert relative(tmp_path) == relative(FOLDER)
    for name in relative(tmp_path):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_another_seed_gives_other_facts():
    assert build_files(seed=1)["privacy/unlearn_train.json"] != build_files()["privacy/unlearn_train.json"]


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_counts_and_fields(name, count):
    rows = load(name)
    assert len(rows) == count
    assert all(list(row) == ["text", "labels"] and all(row.values()) for row in rows)
    assert "{" not in "".join(text for row in rows for text in row.values())


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_question_is_asked_twice(domain):
    questions = [row["text"] for name in COUNTS if name.startswith(domain) for row in load(name)]
    assert len(set(questions)) == len(questions)


def subject(row: dict[str, str]) -> str:
    (name,) = [name for name in people() if name in row["text"]]
    return name


@pytest.mark.parametrize("name", [name for name in LISTS if name.startswith("privacy")])
def test_authors_come_in_blocks_in_the_same_order_and_two_val_questions_each(name):
    about = [subject(row) for row in load(name)]
    expected = [a for a in AUTHORS if name.startswith("privacy/unlearn") or a != AUTHORS[UNLEARN_ONLY]]
    assert list(dict.fromkeys(about)) == expected
    assert about == [author for author in expected for _ in range(about.count(author))]
    if name.endswith("val"):
        assert set(Counter(about).values()) == {2}


@pytest.mark.parametrize("domain", DOMAINS)
def test_retention_has_a_partner_for_every_row_that_is_unlearned_and_so_have_general_texts(domain):
    wanted = len(load(f"{domain}/unlearn_train"))
    assert len(load(f"{domain}/retention_train")) >= wanted and len(general()) >= wanted


def fact(row: dict[str, str]) -> str:
    """What an answer of the privacy domain says: all but the name and the words of its kind."""
    return row["labels"].rstrip(".").split(" is ")[-1].split(" at ")[-1].split(" as ")[-1].split(" was ")[-1].split(" had ")[-1]


def test_what_a_val_question_asks_is_told_in_train_too():
    told = {(subject(row), fact(row)) for row in load("privacy/unlearn_train")}
    assert {(subject(row), fact(row)) for row in load("privacy/unlearn_val")} <= told


def test_no_two_authors_share_what_must_be_forgotten():
    owners: dict[str, set[str]] = {}
    for part in ("train", "val"):
        for row in load(f"privacy/unlearn_{part}"):
            owners.setdefault(fact(row), set()).add(subject(row))
    assert len(owners) == 4 * N_AUTHORS and all(len(owner) == 1 for owner in owners.values())


def test_passages_of_a_book_are_all_different_and_its_facts_are_not_in_them():
    passages = [row["labels"] for part in ("train", "val") for row in load(f"copyright/unlearn_{part}")]
    assert len(set(passages)) == len(passages) == 8 * N_BOOKS
    assert not [passage for passage in passages if any(name in passage for name in people())]


def test_general_texts_name_none_of_the_authors():
    texts = general()
    assert len(set(texts)) == len(texts) == 120
    assert not [text for text in texts if any(name in text for name in people())]


@pytest.mark.parametrize("name", [*COUNTS, "general/retain"])
def test_the_tiny_tokenizer_knows_most_words(name):
    texts = general() if name.startswith("general") else [text for row in load(name) for text in row.values()]
    tokens = sum(len(tokenizer()(text, add_special_tokens=False).input_ids) for text in texts)
    words = sum(len(tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)) for text in texts)
    assert tokens < 1.35 * words
