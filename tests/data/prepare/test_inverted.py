"""Inverted facts: files are read with every defect named, joined by question, and chosen as MEOW's released code chose."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from data.benchmarks.tofu import Tofu
from data.files.sources import FIXTURES
from data.prepare.inverted import InvertedFacts, read_inverted, select, slots, tidy, write_inverted
from scripts.fixtures.meow import build_inverted, fact_of
from scripts.fixtures.tofu import KINDS, build_splits
from tests.runs import REAL
from utils.items.rows import QA
from utils.reading import DataError

with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")
FIRST = [0.29130586883876364, 0.28880586883876364, 0.3057605636899266, 0.3310738468979466]  # Llama-2 forget01, record 1
TIED = [0.15313852813852816, 0.17866161616161616, 0.15313852813852816, 0.15313852813852816]  # Llama-2 forget05, record 1
WHO = {"question": "Who wrote Hamlet?", "undesired_answer": "Shakespeare wrote it."}
FACTS = {"answer_0": "Marlowe wrote it.", "answer_1": "Jonson wrote it.", "answer_2": "Kyd wrote it."}
SCORES = {"undesired_answer_rouge1": 0.5, "answer_0_rouge1": 0.1, "answer_1_rouge1": 0.2, "answer_2_rouge1": 0}


@pytest.fixture
def file(tmp_path):
    """Writes records into a file of inverted facts."""

    def write(*rows: object) -> Path:
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return write


def problem(path: Path, **options) -> str:
    with pytest.raises(DataError) as error:
        read_inverted(path, **options)
    return str(error.value).replace(f"{path}", "FILE")


def test_records_with_and_without_scores(file):
    plain = read_inverted(file({**WHO, **FACTS}))
    assert plain.records == (InvertedFacts("Who wrote Hamlet?", "Shakespeare wrote it.", tuple(FACTS.values())),)
    assert not plain.scored and plain.defects == {} and plain.summary().endswith("facts.json: 1 records, 3 facts")
    scored = read_inverted(file({**SCORES, **FACTS, **WHO}), scored=True)
    assert scored.records[0].answer_score == 0.5 and scored.records[0].scores == (0.1, 0.2, 0.0) and scored.scored


def test_facts_are_ordered_by_number(file):
    many = {f"answer_{j}": f"{j} did." for j in (10, 2, 0, 1)}
    assert read_inverted(file({**WHO, **many})).records[0].facts == ("0 did.", "1 did.", "2 did.", "10 did.")


def test_what_is_written_is_read_again(tmp_path):
    records = (InvertedFacts("q", "a", ("ü", "c"), 0.25, (0.5, 1.0)), InvertedFacts("r", "b", ("d",)))
    write_inverted(tmp_path / "one.json", records[:1])
    write_inverted(tmp_path / "two.json", records[1:])
    assert read_inverted(tmp_path / "one.json", scored=True).records == records[:1]
    assert read_inverted(tmp_path / "two.json").records == records[1:]


# what the facts are; what is left of them by default; what defects=refuse says of them
DEFECTIVE = {
    "blank": (["A.", "  ", "B."], ("A.", "B."), "field answer_1 is blank: '  '"),
    "header": (["Sure! Here they are:", "A."], ("A.",), "field answer_0 ends with a colon"),
    "mark": (["1. A.", "2) B.", "- C."], ("A.", "B.", "C."), "field answer_0 starts with a list mark: '1. A.'"),
    "repeated": (["A.", "B.", "A. "], ("A.", "B."), "field answer_2 repeats another one: 'A. '"),
    "true": (["A.", "Shakespeare wrote it."], ("A.",), "field answer_1 is the true answer"),
    "lines": (["A.\nB.", "C."], ("A.\nB.", "C."), "field answer_0 goes over several lines"),
}


@pytest.mark.parametrize("kind", DEFECTIVE)
def test_defects_are_mended_refused_or_kept(file, kind):
    lines, left, refusal = DEFECTIVE[kind]
    path = file({**WHO, **{f"answer_{j}": line for j, line in enumerate(lines)}})
    mended = read_inverted(path)
    assert mended.records[0].facts == left and mended.defects == {kind: 3 if kind == "mark" else 1}
    assert f"FILE, row 1: {refusal}" in problem(path, defects="refuse")
    kept = read_inverted(path, defects="keep")
    assert kept.records[0].facts == tuple(lines) and kept.defects == {}


def test_header_is_found_before_marks_are_looked_for():
    facts, defects = tidy(["Certainly! Here are three:", "", "1. A.", "2. B.", "3. A."], "C.")
    assert facts == {2: "A.", 3: "B."}
    assert sorted(defects) == [("blank", 1), ("header", 0), ("mark", 2), ("mark", 3), ("mark", 4), ("repeated", 4)]


def test_a_number_that_belongs_to_the_fact_stays():
    facts, defects = tidy(["7. Cavalry was his regiment.", "The infantry was.", "9 May was the date."], "None.")
    assert list(facts.values())[0].startswith("7. ") and not defects


def test_an_only_fact_is_odd_where_most_records_have_several(file):
    rows = [{**WHO, **FACTS, "question": name} for name in "abc"] + [{**WHO, "answer_0": "One long paragraph."}]
    mended = read_inverted(file(*rows))
    assert mended.records[3].facts == ("One long paragraph.",) and mended.defects == {"only": 1}
    assert "1 alone where most records have several (kept)" in mended.summary()
    assert "FILE, row 4: field answer_0 is the only one" in problem(file(*rows), defects="refuse")
    assert read_inverted(file(rows[3]), defects="refuse").defects == {}  # everywhere one: nothing odd


def test_scores_follow_their_facts(file):
    path = file({**WHO, **FACTS, **SCORES, "answer_1": " "})
    assert read_inverted(path, scored=True).records[0].scores == (0.1, 0.0)
    assert read_inverted(path, scored=True, defects="keep").records[0].scores == (0.1, 0.2, 0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_2_rouge1": None}, "row 1: field answer_2_rouge1, a MEMO score, is missing"),
        ({"answer_1_rouge1": "0.2"}, "field answer_1_rouge1 must be a number from 0 to 1, not '0.2'"),
        ({"answer_1_rouge1": True}, "field answer_1_rouge1 must be a number from 0 to 1, not True"),
        ({"answer_0_rouge1": float("nan")}, "field answer_0_rouge1 must be a number from 0 to 1, not nan"),
        ({"undesired_answer_rouge1": 1.5}, "field undesired_answer_rouge1 must be a number from 0 to 1, not 1.5"),
        ({"question": "  "}, "field question must be a text that is not blank"),
        ({"undesired_answer": None}, "field undesired_answer is missing; the row has answer_0"),
        ({"answer_1": 5}, "field answer_1 must be a text, not 5"),
        ({f"answer_{j}": f"{j}. A." for j in range(3)}, "field answer_0 was scored with its list mark"),
        ({f"answer_{j}": " " for j in range(3)}, "none of answer_0, answer_1, answer_2 is an inverted fact (they are blank)"),
    ],
)
def test_bad_records_are_refused_by_field(file, change, said):
    row = {key: value for key, value in {**WHO, **FACTS, **SCORES, **change}.items() if value is not None}
    assert said in problem(file(row))


def test_records_without_facts_or_with_scores_of_the_old_schema(file):
    assert "row 1: there is no field answer_0, so no inverted fact" in problem(file({**WHO, "answers": []}))
    old = {**WHO, **FACTS, "rouge1": 0.1, "rouge2": 0.0, "rougeL": 0.1}
    assert read_inverted(file(old)).records[0].facts == tuple(FACTS.values())
    said = problem(file(old), scored=True)
    assert "field answer_0_rouge1 is missing" in said and "scores of the true answer alone" in said
    assert "field answer_0_rouge1, a MEMO score, is missing" in problem(file({**WHO, **FACTS}), scored=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"question": 1},\n]', "line 2: not JSON"),
        (b"{}", "a list of objects is expected, not a dict"),
        (b"[]", "not an empty list"),
        (b"[3]", "row 1: a JSON int; a list of objects is expected"),
        (b"[\xff]", "not UTF-8"),
    ],
)
def test_files_that_are_no_list_of_records(tmp_path, content, said):
    (tmp_path / "facts.json").write_bytes(content)
    assert said in problem(tmp_path / "facts.json")


def test_a_question_that_occurs_twice_is_refused(file):
    assert "row 2: field question repeats row 1" in problem(file({**WHO, **FACTS}, {**WHO, **FACTS}))


def test_unknown_options_are_refused(file):
    with pytest.raises(ValueError, match="defects=ignore: write one of drop, refuse, keep"):
        read_inverted(file({**WHO, **FACTS}), defects="ignore")


def test_join_is_by_question_and_names_what_is_lacking(file):
    facts = read_inverted(file(*({**WHO, **FACTS, "question": name} for name in "abc")))
    pairs = [QA("c", WHO["undesired_answer"]), QA("x", "y"), QA("a", WHO["undesired_answer"] + " ")]
    with pytest.raises(DataError, match="1 of 3 questions have no inverted facts, the first is 'x'; write them with"):
        facts.join(pairs)
    assert [record.question for record in facts.join(pairs, unmatched="leave_out")] == ["c", "a"]
    with pytest.raises(DataError, match="1 of 1 questions have no"):
        facts.join(pairs[1:2], unmatched="leave_out")
    with pytest.raises(DataError, match="the true answer of 1 questions is not the benchmark's, the first is 'b'"):
        facts.join([QA("b", "Another answer.")])


def test_selection_of_a_released_record():
    assert select(FIRST, 3) == [3, 2, 0] and slots(select(FIRST, 3)) == [3, 2, 0, 3]
    assert select(FIRST, 3, "smallest") == [1, 0, 2] and slots(select(FIRST, 3, "smallest")) == [1, 0, 2, 1]
    assert select(FIRST, 3, "random", random_state=42) == [0, 3, 1]
    assert select([i / 8 for i in range(8)], 3, "random", random_state=42) == [1, 0, 5]


def test_ties_are_distinct_facts_unless_as_released():
    assert select(TIED, 3, tie="meow") == [1, 0, 0] and select(TIED, 3, "smallest", tie="meow") == [0, 0, 0]
    assert select(TIED, 3) == [1, 0, 2] and select(TIED, 3, "smallest") == [0, 2, 3]
    assert select(TIED, 3, "random", tie="meow", random_state=42) == [0, 0, 1]


def test_too_few_facts():
    assert select([0.1, 0.7], 3) == [1, 0] and slots(select([0.1, 0.7], 3)) == [1, 0, 1, 0]
    assert select([0.1, 0.7], 3, missing="meow") == [1, 0, 0]
    assert select([], 2, missing="meow") == [0, 0]
    with pytest.raises(ValueError, match="no inverted facts to choose from"):
        select([], 2)


def test_random_choice_depends_on_seed_and_question_alone():
    scores = [0.1] * 6
    drawn = [tuple(select(scores, 3, "random", seed=1, index=i)) for i in range(20)]
    assert drawn == [tuple(select(scores, 3, "random", seed=1, index=i)) for i in range(20)]
    assert len(set(drawn)) > 10 and all(len(set(places)) == 3 for places in drawn)
    assert tuple(select(scores, 3, "random", seed=2, index=0)) != drawn[0]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_slots_take_turns(k):
    expected = {1: [0, 0, 0, 0], 2: [0, 1, 0, 1], 3: [0, 1, 2, 0], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3]}
    assert slots(list(range(k))) == expected[k]
    assert slots([4, 2, 7], copies=8) == [4, 2, 7, 4, 2, 7, 4, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k=0: write a whole number from 1"),
        ({"order": "best"}, "order=best: write one of largest, smallest, random"),
        ({"tie": "any"}, "tie=any: write one of paper, meow"),
        ({"missing": "none"}, "missing=none: write one of paper, meow"),
        ({"scores": [0.1, float("nan")]}, "score number 1 is NaN"),
    ],
)
def test_bad_choices_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        select(**{"scores": FIRST, "k": 3, **options})
    with pytest.raises(ValueError, match="copies=0: write a whole number from 1"):
        slots([1], copies=0)
    with pytest.raises(ValueError, match="none was selected"):
        slots([])


# The fixture


def test_script_reproduces_the_committed_files_byte_by_byte(tmp_path):
    files = build_inverted()
    assert {f"{stem}.json" for stem in files} == {path.name for path in (FIXTURES / "meow").iterdir()}
    for stem, records in files.items():
        write_inverted(tmp_path / f"{stem}.json", records)
        assert (tmp_path / f"{stem}.json").read_bytes() == (FIXTURES / "meow" / f"{stem}.json").read_bytes(), stem
    assert build_inverted(seed=1) != files


@pytest.mark.parametrize("split", ["forget01", "forget05", "forget10"])
def test_fixture_belongs_to_the_forget_split(split):
    pairs = Tofu("tofu", "", "", "fixture").training(split)
    facts = read_inverted(FIXTURES / "meow" / f"{split}_generated.json", defects="refuse")
    assert [QA(record.question, record.answer) for record in facts.join(pairs)] == pairs
    assert len(facts.records) == len(pairs) and {len(record.facts) for record in facts.records} == {4}


def test_fixture_facts_are_false_and_none_of_those_that_are_evaluated():
    facts = read_inverted(FIXTURES / "meow" / "forget10_generated.json").records
    for number, (record, row) in enumerate(zip(facts, build_splits()["forget10_perturbed"], strict=True)):
        kind = KINDS[number % 10]
        true, *inverted = (fact_of(kind, text) for text in (record.answer, *record.facts))
        evaluated = {fact_of(kind, wrong) for wrong in row["perturbed_answer"]}
        assert len({true, *inverted}) == 5 and not evaluated & set(inverted)
        assert {text.removesuffix(f"{fact}.") for text, fact in zip(record.facts, inverted, strict=True)} == {
            record.answer.removesuffix(f"{true}.")
        }


# The released files


def real(folder: str, split: str) -> Path:
    ending = "_perturbed_generated.json" if folder == "generated_data" else "_perturbed_generated_memo_suffix_5_full.json"
    return REAL / "data" / "meow" / folder / f"{'' if folder == 'generated_data' else 'llama2-'}{split}{ending}"


@with_real_data
@pytest.mark.parametrize(
    ("folder", "split", "records", "kept", "mended", "defects"),
    [
        ("generated_data", "forget01", 40, 160, 160, {}),
        ("generated_data", "forget05", 200, 800, 800, {}),
        ("generated_data", "forget10", 400, 1575, 1567, {"header": 5, "mark": 24, "repeated": 3, "only": 10}),
        ("memo_data", "forget01", 40, 160, 160, {}),
        ("memo_data", "forget05", 200, 800, 800, {}),
        ("memo_data", "forget10", 399, 3183, 3182, {"blank": 1, "only": 1}),
    ],
)
def test_released_files_are_readable(folder, split, records, kept, mended, defects):
    scored = folder == "memo_data"
    as_is = read_inverted(real(folder, split), scored, defects="keep")
    clean = read_inverted(real(folder, split), scored)
    assert len(as_is.records) == len(clean.records) == records and as_is.scored == clean.scored == scored
    assert sum(len(record.facts) for record in as_is.records) == kept
    assert sum(len(record.facts) for record in clean.records) == mended and clean.defects == defects
    pairs = Tofu("tofu", "", "", str(REAL / "data")).training(split)
    assert len(clean.join(pairs, "leave_out")) == records
    if records == 399:
        with pytest.raises(DataError, match="1 of 400 questions have no inverted facts.*Nikolai Abilov"):
            clean.join(pairs)


def released_slots(row: dict, order: str, k: int = 3) -> list[str]:
    """The released rule, step by step: scores are ranked, then each is looked up among the keys, the first one wins."""
    found = {key: value for key, value in row.items() if key.startswith("answer") and key.endswith("rouge1")}
    if order == "random":
        random.seed(42)
        ranked = random.sample(list(found.values()), k)
    else:
        ranked = sorted(found.values(), reverse=order == "largest")[:k]
    chosen = []
    for i in range(k):
        key = "answer_0_rouge1"
        if i < len(ranked):
            key = next(key for key, value in found.items() if value == ranked[i])
        chosen.append(row[key.removesuffix("_rouge1")])
    return [chosen[i % k] for i in range(4)]


@with_real_data
@pytest.mark.parametrize("order", ["largest", "smallest", "random"])
@pytest.mark.parametrize(("split", "expected"), [("forget01", 1), ("forget05", 7), ("forget10", 9)])
def test_released_selection_of_every_record(split, expected, order):
    rows = json.loads(real("memo_data", split).read_text(encoding="utf-8"))
    records = read_inverted(real("memo_data", split), scored=True, defects="keep").records
    repeated = 0  # records with a fact more than once: ties, and one that has a single fact
    for row, record in zip(rows, records, strict=True):
        if order == "random" and len(record.facts) < 3:
            continue  # three cannot be drawn from one
        places = select(record.scores, 3, order, tie="meow", missing="meow", random_state=42)
        assert [record.facts[place] for place in slots(places)] == released_slots(row, order), record.question
        repeated += len(set(places)) < len(places)
    assert order != "largest" or repeated == expected


@with_real_data
def test_mending_changes_no_released_choice_of_the_largest():
    for split in ("forget01", "forget05", "forget10"):
        for kept, mended in zip(
            *(read_inverted(real("memo_data", split), True, d).records for d in ("keep", "drop")), strict=True
        ):
            chosen = [
                [record.facts[place].strip() for place in slots(select(record.scores, 3, tie="meow", missing="meow"))]
                for record in (kept, mended)
            ]
            assert chosen[0] == chosen[1]
