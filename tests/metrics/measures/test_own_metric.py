"""A function of the user's own as a measure."""

from __future__ import annotations

import pandas as pd
import pytest

from metrics.measures.own_metric import OwnMetric
from utils.items.saved import Saved

CODE = """
def same(question, truth, generation):
    return truth == generation

def broken(question, truth, generation):
    return 1 / len(generation)

def wordy(question, truth, generation):
    return "long"

def two(question, truth):
    return 1
"""
TASK = {"task": "forget", "asked_by": ""}
ROWS = [
    {**TASK, "index": 0, "question": "Who?", "truth": "Ann", "generation": "Ann"},
    {**TASK, "index": 1, "question": "When?", "truth": "Noon", "generation": ""},
    {**TASK, "task": "harness", "index": 0, "acc": 1.0},
]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def numbers(file, name: str) -> dict:
    return OwnMetric("own_metric", f"{file}:{name}").numbers(Saved(pd.DataFrame(), ROWS, resamples=100))


def test_its_mean_is_a_number_of_each_task(file):
    found = numbers(file, "same")
    assert list(found) == ["same_forget"] and (found["same_forget"].value, found["same_forget"].n) == (0.5, 2)
    assert "mine.py" in found["same_forget"].definition
    file.write_text(
        CODE.replace("truth == generation", "True")
    )  # a corrected function counts at once, and says that it is another
    assert numbers(file, "same")["same_forget"].value == 1
    assert numbers(file, "same")["same_forget"].definition != found["same_forget"].definition


@pytest.mark.parametrize(
    "name, said",
    [
        ("broken", r"task forget, row 2: broken fails \(ZeroDivisionError: division by zero\); mend the function"),
        ("wordy", "task forget, row 1: wordy gives 'long', which is no number; mend the function"),
        ("two", r"holds no function two\(question, truth, generation\); write one"),
        ("gone", r"holds no function gone\(question, truth, generation\); write one"),
    ],
)
def test_what_fails_is_one_sentence(file, name, said):
    with pytest.raises(ValueError, match=said):
        numbers(file, name)


def test_what_is_no_place_of_a_function_is_one_sentence(tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_like_it")
    for of, said in {
        "mine": "write FILE.py:NAME of a function",
        f"{tmp_path}/gone.py:same": "there is no file",
        f"{tmp_path}/bad.py:same": "cannot be run \\(ModuleNotFoundError",
    }.items():
        with pytest.raises(ValueError, match=said):
            OwnMetric("own_metric", of)
