"""TOFU: every split has the rows of the benchmark, evaluation asks for the right answers, bad files are refused by row."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from data.benchmarks.tofu import FORGET, RETAIN, Tofu
from data.files.sources import FIXTURES
from tests.runs import REAL
from utils.items.rows import QA
from utils.reading import DataError

with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")


def tofu(root: Path | str = "fixture", **options) -> Tofu:
    return Tofu("tofu", "owner/data", "0123456789", str(root), **options)


@pytest.fixture
def copied(tmp_path) -> Path:
    """A data_root of the user's that a test may damage."""
    shutil.copytree(FIXTURES / "tofu", tmp_path / "tofu")
    return tmp_path


def change(root: Path, name: str, row: int, **fields) -> None:
    """Changes fields of one row (counted from 1) of a file; None removes a field."""
    path = root / "tofu" / f"{name}.json"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[row - 1] = {key: value for key, value in {**rows[row - 1], **fields}.items() if value is not None}
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def check_partition(benchmark: Tofu, total: int) -> None:
    full = benchmark.training("full")
    assert len(full) == total and len(set(full)) == total
    for forget in FORGET:
        forgotten, kept = benchmark.training(forget), benchmark.training(benchmark.retain_split(forget))
        percent = int(forget[-2:])
        assert len(forgotten) == total * percent // 100, forget
        whole = kept + forgotten
        assert whole == full, forget


def test_every_forget_split_and_its_retain_split_make_up_the_full_set():
    check_partition(tofu(), 200)
    assert RETAIN == {f"forget{n:02d}": f"retain{100 - n:02d}" for n in (1, 5, 10, 20, 30, 50, 90)}


@with_real_data
def test_the_real_benchmark_has_its_published_sizes():
    benchmark = tofu(REAL / "data")
    check_partition(benchmark, 4000)
    sizes = {"forget01": 40, "forget05": 200, "forget10": 400, "retain99": 3960, "retain95": 3800, "retain90": 3600}
    sizes |= {"holdout01": 40, "holdout05": 200, "holdout10": 400, "real_authors": 100, "world_facts": 117}
    for split, size in sizes.items():
        assert len(benchmark.training(split)) == size, split
    for split, forget in {"forget01": 40, "forget05": 200, "forget10": 400}.items():
        requests = benchmark.requests(split)
        counts = {task: sum(r.task == task for r in requests) for task in ("forget", "retain", "real_authors", "world_facts")}
        assert counts == {"forget": forget, "retain": 400, "real_authors": 100, "world_facts": 117}
        assert [r.question for r in requests[:forget]] == [qa.question for qa in benchmark.training(split)]


def test_splits_can_be_joined():
    benchmark = tofu()
    assert benchmark.training("retain90+forget10") == benchmark.training("full")
    assert benchmark.training("forget01+world_facts") == benchmark.training("forget01") + benchmark.training("world_facts")


def test_retain_rows_shortens_retain_splits_and_their_evaluation_only():
    whole, cut = tofu(), tofu(retain_rows=7)
    for split in ("retain90", "retain80", "retain10"):
        assert cut.training(split) == whole.training(split)[:7]
    assert cut.training("forget10") == whole.training("forget10") and cut.training("full") == whole.training("full")
    requests = cut.requests("forget10")
    assert [sum(r.task == task for r in requests) for task in ("forget", "retain", "real_authors")] == [20, 7, 24]


def test_rows_limits_every_task():
    requests = tofu(rows=3).requests("forget10")
    assert [(r.task, r.index) for r in requests] == [
        (task, index) for task in ("forget", "retain", "real_authors", "world_facts", "holdout") for index in range(3)
    ]
    assert len(tofu(rows=3, retain_rows=2).requests("forget10")) == 14
    assert len(tofu(rows=300).requests("forget10")) == 20 + 40 + 24 + 24 + 20


def test_an_evaluation_asks_for_true_paraphrased_and_wrong_answers():
    requests = {(r.task, r.index): r for r in tofu().requests("forget05")}
    rows = {name: first_row(name) for name in ("forget05_perturbed", "world_facts_perturbed")}
    forget, world = requests["forget", 0], requests["world_facts", 0]
    row = rows["forget05_perturbed"]
    assert (forget.question, forget.truth) == (row["question"], row["answer"])
    assert forget.answers == (
        ("answer", 0, row["answer"]),
        ("paraphrased", 0, row["paraphrased_answer"]),
        *(("perturbed", j, text) for j, text in enumerate(row["perturbed_answer"])),
    )
    row = rows["world_facts_perturbed"]  # no paraphrase in the real world: the answer stands on both sides
    assert [text for _, _, text in world.answers] == [row["answer"], row["answer"], *row["perturbed_answer"]]
    assert len(forget.answers) == 7 and len(world.answers) == 5


def first_row(name: str) -> dict:
    return json.loads((FIXTURES / "tofu" / f"{name}.json").read_text(encoding="utf-8").splitlines()[0])


def test_derived_forget_splits_are_evaluated_on_the_largest_that_has_wrong_answers():
    assert tofu().requests("forget50") == tofu().requests("forget10")
    assert tofu().requests("forget01") != tofu().requests("forget10")


def test_a_retain_oracle_is_asked_for_forget_and_holdout_without_generations():
    asked = tofu().oracle_requests(tofu().requests("forget05"))
    assert {r.task for r in asked} == {"forget", "holdout"} and {r.truth for r in asked} == {None} and len(asked) == 10 + 10
    assert [r.answers for r in asked] == [r.answers for r in tofu().requests("forget05") if r.task in ("forget", "holdout")]


def test_the_holdout_belongs_to_the_forget_split(copied):
    for split, held in (("forget01", "holdout01"), ("forget10", "holdout10"), ("forget20", "holdout10")):
        answers = [r.answers[0][2] for r in tofu().requests(split) if r.task == "holdout"]
        assert answers == [pair.answer for pair in tofu().training(held)]
    (copied / "tofu" / "holdout01.json").unlink()
    assert "holdout" not in {r.task for r in tofu(copied).requests("forget01")}


def test_general_knowledge_is_what_a_pretrained_model_brings(copied):
    known = tofu().general_knowledge()
    assert len(known) == 24 + 24 + 40
    row = first_row("strangers")
    assert QA(row["question"], row["answer"]) in known
    assert len(tofu(copied).general_knowledge()) == 24 + 24


@pytest.mark.parametrize("split", ["forget7", "retain91", "", "full+", "forget10_perturbed", 7])
def test_unknown_splits_are_refused_with_those_that_exist(split):
    with pytest.raises(ValueError, match="write one of .*forget01, forget05, forget10"):
        tofu().training(split)


def test_only_forget_splits_can_be_forgotten():
    with pytest.raises(ValueError, match=r"split=forget1: write one of .*did you mean forget"):
        tofu().check_forget_split("forget1")
    with pytest.raises(ValueError, match="split=full: write one of forget01"):
        tofu().retain_split("full")


BAD = [
    ("forget10", 3, {"answer": None}, "forget10.json, row 3: field answer is missing"),
    ("forget10", 20, {"question": ""}, "forget10.json, row 20: field question must be a text that is not blank"),
    (
        "full",
        170,
        {"answer": " "},
        "full.json, row 170: field answer must be a text that is not blank",
    ),  # read for forget20, whose first row is 161
]


@pytest.mark.parametrize("name, row, fields, message", BAD)
def test_bad_training_rows_are_named_by_file_and_row(copied, name, row, fields, message):
    change(copied, name, row, **fields)
    with pytest.raises(DataError) as refusal:
        tofu(copied).training("forget20" if name == "full" else name)
    assert message in str(refusal.value)


BAD_EVALUATION = [
    (
        "forget10_perturbed",
        {"perturbed_answer": ["a", "b"]},
        "row 2: field perturbed_answer must be a list of 5, each a text that is not blank",
    ),
    (
        "forget10_perturbed",
        {"perturbed_answer": ["a", "b", "", "c", "d"]},
        "row 2: field perturbed_answer must be a list of 5, each a text that is not blank",
    ),
    ("forget10_perturbed", {"paraphrased_answer": None}, "row 2: field paraphrased_answer is missing"),
    ("retain_perturbed", {"perturbed_answer": None}, "row 2: field perturbed_answer is missing"),
    (
        "world_facts_perturbed",
        {"perturbed_answer": ["a"] * 5},
        "row 2: field perturbed_answer must be a list of 3, each a text that is not blank",
    ),
    ("real_authors_perturbed", {"answer": ""}, "row 2: field answer must be a text that is not blank"),
]


@pytest.mark.parametrize("name, fields, message", BAD_EVALUATION)
def test_bad_evaluation_rows_are_named_by_file_and_row(copied, name, fields, message):
    change(copied, name, 2, **fields)
    with pytest.raises(DataError) as refusal:
        tofu(copied).requests("forget10")
    assert f"{name}.json, {message}" in str(refusal.value)


def subjects_and_names(benchmark: Tofu, task: str) -> dict[str, list[set[str]]]:
    """Subject -> for each of its questions, what stands in question and true answer and may be (part of) a name."""
    found: dict[str, list[set[str]]] = {}
    for request in benchmark.requests("forget10"):
        if request.task == task:
            names = set(re.findall(r"\b[A-ZØ][\w-]+", f"{request.question} {request.truth or request.answers[0][2]}"))
            found.setdefault(benchmark.subject(task, request.index), []).append(names)
    return found


@pytest.mark.parametrize(("root", "of_author"), [("fixture", 10), pytest.param("real", 20, marks=with_real_data)])
def test_questions_about_one_author_have_one_subject(root, of_author):
    """In each block one name stands in most texts, and is that of no other block."""
    benchmark = tofu(root if root == "fixture" else REAL / "data")
    for task in ("forget", "retain", "holdout"):
        found = subjects_and_names(benchmark, task)
        assert {len(texts) for texts in found.values()} == {of_author}
        for subject, texts in found.items():
            elsewhere = {name for other, names in found.items() if other != subject for name in set.union(*names)}
            own = Counter(name for names in texts for name in names - elsewhere)
            assert own.most_common(1)[0][1] > of_author / 2, (subject, own)
    assert benchmark.subject("real_authors", 0) is None and benchmark.subject("texts", 0) is None
