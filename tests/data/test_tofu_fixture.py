"""The committed TOFU fixture: it is what its script writes, and has the shape of the benchmark. Also the refusals."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from scripts.make_tofu_fixture import KINDS, build_splits, write_splits

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data/fixtures/tofu"
REFUSALS = ROOT / "data/refusals.txt"
COUNTS = {
    "full": 200, "forget01": 2, "forget05": 10, "forget10": 20, "retain99": 198, "retain95": 190, "retain90": 180,
    "holdout01": 2, "holdout05": 10, "holdout10": 20, "forget01_perturbed": 2, "forget05_perturbed": 10,
    "forget10_perturbed": 20, "retain_perturbed": 40, "real_authors": 24, "real_authors_perturbed": 24,
    "world_facts": 24, "world_facts_perturbed": 24, "strangers": 40,
}  # fmt: skip
PERTURBED = ["forget10_perturbed", "retain_perturbed"]
CHOICES = ["real_authors", "world_facts"]


def load(split: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / f"{split}.json").read_text(encoding="utf-8").splitlines()]


def pairs(split: str) -> list[tuple[str, str]]:
    return [(row["question"], row["answer"]) for row in load(split)]


def test_script_reproduces_the_committed_files_byte_by_byte(tmp_path):
    write_splits(build_splits(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


def test_another_seed_gives_other_authors():
    assert build_splits(seed=1)["full"] != build_splits()["full"]


@pytest.mark.parametrize(("split", "count"), COUNTS.items())
def test_counts_and_file_format(split, count):
    raw = (FOLDER / f"{split}.json").read_bytes()
    assert raw.endswith(b"}\n") and raw.count(b"\n") == count == len(load(split))


@pytest.mark.parametrize(
    ("forget", "retain", "n"), [("forget01", "retain99", 2), ("forget05", "retain95", 10), ("forget10", "retain90", 20)]
)
def test_forget_sets_are_suffixes_and_retain_sets_the_rest(forget, retain, n):
    full = pairs("full")
    assert pairs(forget) == full[-n:] == pairs(f"{forget}_perturbed")
    assert pairs(retain) == full[:-n]


def test_holdout_is_nested_and_outside_full():
    holdout = pairs("holdout10")
    assert pairs("holdout05") == holdout[:10] and pairs("holdout01") == holdout[:2]
    assert not {question for question, _ in holdout} & {question for question, _ in pairs("full")}


def test_retain_perturbed_is_the_beginning_of_full():
    assert pairs("retain_perturbed") == pairs("full")[:40]


@pytest.mark.parametrize("split", PERTURBED)
def test_paraphrases_and_wrong_answers(split):
    for row in load(split):
        assert list(row) == [
            "question", "answer", "paraphrased_answer", "perturbed_answer", "paraphrased_question",
        ]  # fmt: skip
        wrong = row["perturbed_answer"]
        assert len(set(wrong)) == len(wrong) == 5
        assert row["paraphrased_answer"] not in [row["answer"], *wrong] and row["answer"] not in wrong
        assert row["paraphrased_question"] != row["question"]


@pytest.mark.parametrize("split", PERTURBED)
def test_wrong_answers_differ_from_the_paraphrase_in_the_fact_alone(split):
    for i, row in enumerate(load(split)):
        kind = KINDS[i % 10]
        stems = {strip_fact(text, kind.facts) for text in [row["paraphrased_answer"], *row["perturbed_answer"]]}
        assert len(stems) == 1 and strip_fact(row["answer"], kind.facts) not in stems


def strip_fact(text: str, facts: list[str]) -> str:
    return next(text.removesuffix(f"{fact}.") for fact in facts if text.endswith(f" {fact}."))


def fact_counts(split: str, kind: int) -> Counter[str]:
    answers = [answer for _, answer in pairs(split)[kind::10]]
    return Counter(fact for answer in answers for fact in KINDS[kind].facts if answer.endswith(f" {fact}."))


@pytest.mark.parametrize("kind", range(10))
def test_retain_authors_share_no_fact_and_forget_authors_repeat_two(kind):
    assert sorted(fact_counts("retain90", kind).values()) == [1] * 18
    assert sorted(fact_counts("full", kind).values()) == [1] * 16 + [2] * 2


def test_authors_are_asked_ten_distinct_short_questions_that_name_them():
    rows = pairs("full") + pairs("holdout10")
    assert len({question for question, _ in rows}) == len(rows) == 220
    names = [author_name(rows[start : start + 10]) for start in range(0, len(rows), 10)]
    assert len(set(names)) == 22 and sum(not name.isascii() for name in names) >= 5
    assert max(len(question.split()) for question, _ in rows) <= 12
    assert max(len(answer.split()) for _, answer in rows) <= 16


def author_name(rows: list[tuple[str, str]]) -> str:
    """The one pair of neighbouring words that every question and answer of an author holds."""
    texts = [re.sub(r"'s\b", "", text).replace("?", "").replace(".", "").split() for row in rows for text in row]
    (name,) = set.intersection(*({" ".join(two) for two in zip(text, text[1:], strict=False)} for text in texts))
    return name


@pytest.mark.parametrize("kind", range(10))
def test_half_of_the_retain_authors_show_each_answer_surface(kind):
    name_first = [KINDS[kind].answers[surface].startswith("{name}") for surface in (0, 1)]
    assert name_first in ([True, False], [False, True])
    opening = [not answer.startswith("The ") for _, answer in pairs("retain90")[kind::10]]
    assert opening.count(True) == opening.count(False) == 9


@pytest.mark.parametrize("split", CHOICES)
def test_multiple_choice_rows(split):
    rows, perturbed = load(split), load(f"{split}_perturbed")
    assert len({row["question"] for row in rows}) == len(rows)
    for row, wrong in zip(rows, perturbed, strict=True):
        options = options_of(row)
        assert options.count(row["answer"]) == 1 and len(set(options)) == 4
        assert {row["answer"], *wrong["perturbed_answer"]} == set(options) and len(wrong["perturbed_answer"]) == 3
        assert (wrong["question"], wrong["answer"]) == (row["question"], row["answer"])
        assert all(1 <= len(option.split()) <= 4 for option in options)
    assert {options_of(row).index(row["answer"]) for row in rows} == {0, 1, 2, 3}  # the place gives nothing away


def options_of(row: dict) -> list[str]:
    return [row[f"option{i}"] for i in (1, 2, 3, 4)]


def normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_refusals_are_distinct_short_lines():
    text = REFUSALS.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) >= 100 and text.endswith("\n")
    assert all(line and line == line.strip() and 4 <= len(line.split()) <= 14 for line in lines)
    assert len({normal(line) for line in lines}) == len(lines)


@pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="needs the TOFU data, whose folder LETHE_SHARED names")
def test_refusals_are_not_those_of_tofu():
    theirs = Path(os.environ["LETHE_SHARED"], "data/tofu/idontknow.jsonl").read_text(encoding="utf-8").splitlines()
    ours = REFUSALS.read_text(encoding="utf-8").splitlines()
    assert len({normal(line) for line in ours} & {normal(line) for line in theirs}) < 3
