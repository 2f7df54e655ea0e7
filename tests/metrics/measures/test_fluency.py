"""Fluency on any benchmark: per task and together, a classifier asked once, and what cannot be measured refused."""

from __future__ import annotations

import pandas as pd
import pytest
from pytest import approx

from data.benchmarks.nlg import Nlg
from data.benchmarks.tofu import Tofu
from metrics.measures.fluency import Fluency
from tests.resources import resources
from tests.runs import QUICK_EVALUATION, compose_settings, run, target
from tests.runs import metrics as saved_metrics
from tests.utils.judges.test_judges import classifier, slow_logits
from utils.files import read_rows
from utils.items.saved import Saved
from utils.judges.judges import ClassifierJudge
from utils.runs.settings import build

TOFU = Tofu("tofu", "owner/data", "0123", "fixture", rows=2)
NUMBERS = {"empty", "words", "dominated", "diversity", "rep2", "rep3", "distinct1", "distinct2", "distinct3"}


def rows(**texts: list[str]) -> list[dict]:
    return [
        {"task": task, "asked_by": "", "index": index, "question": "Why?", "generation": text, "truth": "So."}
        for task, of_task in texts.items()
        for index, text in enumerate(of_task)
    ]


def numbers(found: list[dict], measure: Fluency | None = None) -> dict:
    measure = measure or Fluency("fluency")
    return measure.numbers(Saved(pd.DataFrame(), found, resamples=100))


@pytest.fixture(scope="module")
def gibberish(tmp_path_factory) -> str:
    return classifier(tmp_path_factory.mktemp("gibberish"), ["clean", "noise", "mild"])


SAID = rows(forget=["a b c a b c", ""], retain=["one two three four"])


def test_each_task_and_all_together():
    found = numbers([*SAID, {"task": "documents", "asked_by": "", "index": 0}])
    assert set(found) == {f"fluency_{name}{end}" for name in NUMBERS for end in ("_forget", "_retain", "")}
    assert found["fluency_words_forget"].value == approx(3) and found["fluency_words"].value == approx(10 / 3)
    assert found["fluency_empty"].value == approx(1 / 3) and found["fluency_empty"].n == 3
    assert found["fluency_rep3_forget"].value == approx(1 / 4) and found["fluency_rep3"].value == approx(1 / 8)
    assert found["fluency_distinct1"].value == approx(7 / 10)
    assert found["fluency_words"].evidence.labels("items") == [("forget", 0), ("forget", 1), ("retain", 0)]


def test_the_classifier_reads_every_answer(gibberish, tmp_path):
    measure = Fluency("fluency", classifier=gibberish, label=1, batch_size=2)
    found = measure.add_verdicts([*SAID, {"task": "documents", "asked_by": "", "index": 0}], resources(tmp_path))
    for row in found[:3]:
        wanted = slow_logits(gibberish, row["generation"]).softmax(0)[1].item()
        assert row["clean"] == approx(wanted, abs=1e-5) and row["clean_by"] == gibberish
    assert "clean" not in found[3]
    metric = numbers(found, measure)["fluency_clean"]
    assert metric.value == approx(sum(row["clean"] for row in found[:3]) / 3) and metric.n == 3
    assert f"label 1 of the classifier {gibberish}" in metric.definition
    assert numbers(found, measure)["fluency_clean_retain"].value == approx(found[2]["clean"])


def test_answers_are_read_as_far_as_asked(gibberish, tmp_path):
    long = [rows(forget=["one two three " * times]) for times in (50, 90)]
    cut = Fluency("fluency", classifier=gibberish, max_length=8)
    one, other = (cut.add_verdicts(said, resources(tmp_path / str(n)))[0]["clean"] for n, said in enumerate(long))
    whole = Fluency("fluency", classifier=gibberish, max_length=400).add_verdicts(long[0], resources(tmp_path / "2"))
    assert one == other != whole[0]["clean"]


def test_the_classifier_is_asked_once(gibberish, tmp_path, monkeypatch):
    measure = Fluency("fluency", classifier=gibberish)
    found = measure.add_verdicts(SAID, resources(tmp_path))
    monkeypatch.setattr(ClassifierJudge, "judge", lambda *_: pytest.fail("asked again"))
    assert measure.add_verdicts(SAID, resources(tmp_path)) == found


def test_without_a_classifier_no_model_is_needed():
    assert not Fluency("fluency").extras and len(Fluency("fluency", classifier="some/classifier").extras) == 1


def test_what_cannot_be_measured_is_refused(gibberish, tmp_path):
    nlg = Nlg("nlg", "o/w", "0", "o/n", "0", "fixture")
    with pytest.raises(ValueError, match="measure=fluency: benchmark=nlg asks for no answers of the model's own"):
        Fluency("fluency").check(nlg, nlg.requests("all"))
    asked = TOFU.requests("forget05")
    Fluency("fluency", classifier=gibberish, label=2).check(TOFU, asked)
    with pytest.raises(ValueError, match="measure.fluency.label=3: .* has labels 0 to 2"):
        Fluency("fluency", classifier=gibberish, label=3).check(TOFU, asked)
    with pytest.raises(ValueError, match="measure.fluency.classifier=.*nowhere: cannot be loaded .*does not exist"):
        Fluency("fluency", classifier=str(tmp_path / "nowhere")).check(TOFU, asked)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"label": -1}, "measure.fluency.label=-1: write a whole number from 0"),
        ({"max_length": 1}, "measure.fluency.max_length=1: write a whole number from 2"),
        ({"batch_size": "auto"}, "measure.fluency.batch_size=auto"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Fluency("fluency", **options)


def test_the_settings_are_those_of_open_unlearning():
    made = build(compose_settings("evaluate", "measure=[fluency]").measure.fluency, "measure=fluency")
    assert made == Fluency("fluency", classifier=None, label=0, max_length=32, batch_size=32)


def test_an_evaluation_reports_it_beside_its_own_numbers(gibberish, tmp_path):
    dials = ("measure=[fluency]", f"measure.fluency.classifier={gibberish}", "oracle=none")
    run(tmp_path, "evaluate", "split=forget05", f"model.path={target()}", *QUICK_EVALUATION, *dials, "out=eval")
    found, kept = saved_metrics(tmp_path / "eval"), read_rows(tmp_path / "eval" / "generations.jsonl")
    assert {"model_utility", "fluency_empty_forget", "fluency_clean"} <= set(found)
    assert found["fluency_clean"]["n"] == len(kept) == 12
    assert found["fluency_clean"]["value"] == approx(sum(row["clean"] for row in kept) / 12)
