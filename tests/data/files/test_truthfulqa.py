"""TruthfulQA: the answers as the authors list them, the pools and rows of LLMU and SKU, parts by question."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from data.files.truthfulqa import Question, normal_rows, random_answers, read_multiple_choice, read_truthfulqa, split_questions
from tests.runs import REAL
from utils.items.rows import QA
from utils.reading import DataError

with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")

HEAD = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
CSV = HEAD + 't,c,"Why, then? ",It rains,It rains; Snow;,Sun; Hail,s\nt,c,Who?,Nobody,Nobody,Somebody;Bob,s\n'
QUESTIONS = [
    Question("Why, then?", "It rains", ("It rains", "Snow", ""), ("Sun", "Hail"), "It rains; Snow;"),
    Question("Who?", "Nobody", ("Nobody",), ("Somebody", "Bob"), "Nobody"),
]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_the_csv_of_the_authors(tmp_path):
    path = write(tmp_path / "TruthfulQA.csv", "\ufeff" + CSV)
    assert read_truthfulqa(path) == QUESTIONS


def test_the_copy_of_790_questions_has_one_more_column(tmp_path):
    head, *lines = CSV.splitlines()
    more = [head.replace("Source", "Best Incorrect Answer,Source"), *(line[:-1] + "Sun,s" for line in lines)]
    assert read_truthfulqa(write(tmp_path / "TruthfulQA.csv", "\n".join(more))) == QUESTIONS


def test_records_of_the_hub_hold_the_same_answers(tmp_path):
    rows = [
        {"question": q.text, "best_answer": q.best, "correct_answers": q.correct, "incorrect_answers": q.incorrect}
        for q in QUESTIONS
    ]
    write(tmp_path / "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        found = read_truthfulqa(tmp_path / name)
        assert [(q.text, q.correct, q.incorrect) for q in found] == [(q.text, q.correct, q.incorrect) for q in QUESTIONS]
        assert [q.joined for q in found] == ["It rains; Snow; ", "Nobody"]


def test_random_answers_come_column_by_column():
    best, true, false = ["It rains", "Nobody"], ["It rains", "Snow", "", "Nobody"], ["Sun", "Hail", "Somebody", "Bob"]
    assert random_answers(QUESTIONS, empty=True) == best + true + false
    assert random_answers(QUESTIONS) == [text for text in best + true + false if text]


def test_normal_rows_in_three_forms():
    best = [QA("Why, then?", "It rains"), QA("Who?", "Nobody")]
    assert normal_rows(QUESTIONS, "best") == best
    assert normal_rows(QUESTIONS, "joined") == [*best, QA("Why, then?", "It rains; Snow;"), QA("Who?", "Nobody")]
    assert normal_rows(QUESTIONS) == [best[0], QA("Why, then?", "Snow"), best[1]]
    with pytest.raises(ValueError, match="normal_rows=all: write one of each, best, joined"):
        normal_rows(QUESTIONS, "all")


@pytest.mark.parametrize(("count", "sizes"), [(817, [571, 81, 165]), (790, [553, 79, 158]), (40, [28, 4, 8])])
def test_parts_have_the_released_sizes_and_share_no_question(count, sizes):
    parts = split_questions(count, seed=3)
    assert [len(part) for part in parts.values()] == sizes and list(parts) == ["train", "val", "test"]
    assert sorted(number for part in parts.values() for number in part) == list(range(count))
    assert parts == split_questions(count, seed=3) != split_questions(count, seed=4)


CHOICE = {"question": "Who? ", "mc1_targets": {"Nobody.": 1, "Bob.": 0}, "mc2_targets": {"Nobody.": 1, "Bob.": 0, "None.": 1}}


def test_multiple_choice_of_the_authors_and_of_the_hub(tmp_path):
    write(tmp_path / "mc_task.json", json.dumps([CHOICE]))
    lists = {
        f"mc{n}_targets": {"choices": [*CHOICE[f"mc{n}_targets"]], "labels": [*CHOICE[f"mc{n}_targets"].values()]} for n in (1, 2)
    }
    write(tmp_path / "mc.jsonl", json.dumps({"question": "Who?", **lists}))
    pd.DataFrame([{"question": "Who?", **lists}]).to_parquet(tmp_path / "mc.parquet")
    (found,) = read_multiple_choice(tmp_path / "mc_task.json")
    assert found.question == "Who?" and found.mc1.texts == ("Nobody.", "Bob.") and found.mc1.true == (True, False)
    assert found.mc2.true == (True, False, True)  # by label, not by place
    for name in ("mc.jsonl", "mc.parquet"):
        assert read_multiple_choice(tmp_path / name) == [found]


BAD = [
    ("a.csv", CSV.replace("Best Answer", "Best"), "a.csv: column Best Answer is missing"),
    ("a.csv", HEAD + "t,c,Why?,It\n", "a.csv, row 1: too few columns"),
    ("a.csv", HEAD + "t,c,Why?, ,x,y,s\n", "a.csv, row 1: field best_answer must be a text that is not blank"),
    ("a.csv", HEAD, "a.csv: holds no rows"),
    (
        "a.jsonl",
        '{"question": "q", "best_answer": "a", "correct_answers": "x"}',
        "field correct_answers must be a list, each a text",
    ),
    ("a.parquet", "x", "a.parquet: not a Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BAD)
def test_bad_files_are_named(tmp_path, name, content, sentence):
    with pytest.raises(DataError) as refusal:
        read_truthfulqa(write(tmp_path / name, content))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mc1_targets": None}, "row 1: field mc1_targets must be an object, not None"),
        ({"mc1_targets": {"a": 1}}, r"mc1_targets must be lists of texts .*one of them 0, not .*'labels': \[1\]"),
        ({"mc2_targets": {"a": 0}}, "mc2_targets must be lists of texts `choices` and `labels` of 0 and 1"),
        ({"mc2_targets": {"a": 1, "b": 2}}, "mc2_targets must be lists of texts `choices` and `labels` of 0 and 1"),
        ({"mc2_targets": {"choices": ["a", "b"], "labels": [1]}}, "mc2_targets must be lists of texts"),
        ({"mc2_targets": {" ": 1, "b": 0}}, "mc2_targets must be lists of texts"),
        ({"question": ""}, "row 1: field question must be a text that is not blank"),
    ],
)
def test_bad_choices_are_named(tmp_path, change, sentence):
    with pytest.raises(DataError, match=sentence):
        read_multiple_choice(write(tmp_path / "mc_task.json", json.dumps([{**CHOICE, **change}])))
    with pytest.raises(DataError, match="mc_task.json, line 1: not JSON"):
        read_multiple_choice(write(tmp_path / "mc_task.json", "["))


@with_real_data
def test_the_real_file_gives_the_pool_of_llmu():
    questions = read_truthfulqa(REAL / "data/truthfulqa/TruthfulQA.csv")
    pool = random_answers(questions, empty=True)
    assert len(questions) == 817 and [len(pool), pool.count(""), len(set(pool))] == [6735, 31, 5341]
    assert sum(len(q.correct) for q in questions) == 2600 and sum(len(q.incorrect) for q in questions) == 3318
    assert random_answers(questions) == [text for text in pool if text] and len(random_answers(questions)) == 6704


@with_real_data
def test_the_real_rows_of_llmu_and_sku():
    questions = read_truthfulqa(REAL / "data/truthfulqa/TruthfulQA.csv")
    assert len(normal_rows(questions, "best")) == 817 and len(normal_rows(questions, "joined")) == 1634
    assert normal_rows(questions, "joined")[817].answer.startswith("Nothing happens; You eat watermelon seeds; ")
    each = Counter(row.question for row in normal_rows(questions))
    assert set(each) == {q.text for q in questions} and max(each.values()) > 3


@with_real_data
def test_the_real_conversions_agree_with_the_originals():
    folder = REAL / "data/truthfulqa"
    ours, hub = read_truthfulqa(folder / "TruthfulQA.csv"), read_truthfulqa(folder / "generation_validation.jsonl")
    assert [(q.text, q.best, q.correct, q.incorrect) for q in ours] == [(q.text, q.best, q.correct, q.incorrect) for q in hub]
    choices = read_multiple_choice(folder / "mc_task.json")
    assert choices == read_multiple_choice(folder / "multiple_choice_validation.jsonl") and len(choices) == 817
    assert {choice.question for choice in choices} == {q.text for q in ours}
    assert all(choice.mc1.true == (True, *[False] * (len(choice.mc1.true) - 1)) for choice in choices)
    mixed = [choice for choice in choices if list(choice.mc2.true) != sorted(choice.mc2.true, reverse=True)]
    assert len(mixed) == 2  # a reader that goes by the place of the first false answer gets these wrong
