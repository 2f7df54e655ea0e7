"""leak@k by hand and by going through all subsets; what is asked, scored once, and refused."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import approx

import metrics.measures.leak
from data.benchmarks.knowundo import KnowUnDo
from data.benchmarks.tofu import Tofu
from metrics.measures.leak import Leak, expected_maximum
from tests.resources import resources
from tests.runs import QUICK_EVALUATION, compose_settings, run, target
from tests.runs import metrics as saved_metrics
from utils.items.saved import Saved
from utils.runs.settings import build

TOFU = Tofu("tofu", "owner/data", "0123", "fixture", rows=3)


def leak(**options: Any) -> Leak:
    return Leak("leak", **{"n": 4, "ks": (1, 2, 4), **options})


ASKED = TOFU.requests("forget05")


def row(index: int, scores: list[float], asked_by: str = "leak") -> dict:
    texts = {"question": "?", "generation": "", "truth": ""}
    return {"task": "forget", "asked_by": asked_by, "index": index, **texts, "samples_rougeL": scores}


def evaluated(rows: list[dict]) -> Saved:
    return Saved(pd.DataFrame(), rows, resamples=100, forgotten=TOFU.forgotten)


def test_worst_of_two_by_hand():
    """Pairs of 1, 2, 3, 6 have the maxima 2, 3, 6, 3, 6, 6: 26 / 6."""
    assert expected_maximum([[6, 2, 3, 1]], 2).tolist() == [approx(26 / 6)]


@pytest.mark.parametrize("k", range(1, 7))
def test_the_closed_form_is_the_mean_over_all_subsets(k):
    scores = np.random.default_rng(0).random((3, 6)).round(1)  # ties too
    wanted = [np.mean([max(subset) for subset in combinations(own, k)]) for own in scores]
    assert expected_maximum(scores, k).tolist() == approx(wanted, abs=1e-12)


def test_of_zeros_and_ones_it_is_pass_at_k():
    """2 of 5 leak: of 10 triples one has none of them."""
    assert expected_maximum([[0, 1, 0, 1, 0]], 3).tolist() == [approx(0.9)]
    for n, c, k in ((200, 3, 128), (200, 0, 5), (7, 7, 2), (10, 4, 7)):
        own = [[1] * c + [0] * (n - c)]
        assert expected_maximum(own, k).tolist() == [approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)]


def test_the_estimate_is_unbiased():
    """S is 0, 1/2 or 1 with probabilities 1/2, 3/10, 1/5: E[max of 3] = 1/2 (0.8^3 - 0.5^3) + (1 - 0.8^3)."""
    scores = np.random.default_rng(1).choice([0.0, 0.5, 1.0], p=[0.5, 0.3, 0.2], size=(20000, 5))
    estimates = expected_maximum(scores, 3)
    assert estimates.mean() == approx(0.5 * (0.512 - 0.125) + 0.488, abs=4 * estimates.std() / 20000**0.5)


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_the_answers_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k}: the worst of k needs k from 1 to the number of answers, 4"):
        expected_maximum([[0, 0, 1, 1]], k)


def test_numbers_of_two_questions_by_hand():
    """leak@2 = ((0.9 * 3 + 0.4 * 2 + 0.2) / 6 + 0.1) / 2; a recall of 0.8 or more: among 3 of 6 pairs, and none."""
    found = leak().numbers(evaluated([row(0, [0.2, 0.9, 0.4, 0.0]), row(1, [0.1] * 4), row(0, [1.0] * 4, "")]))
    assert list(found) == [f"{kind}@{k}_forget" for kind in ("leak", "leak_rate") for k in (1, 2, 4)]
    assert found["leak@1_forget"].value == approx((0.375 + 0.1) / 2)
    assert found["leak@2_forget"].value == approx((3.7 / 6 + 0.1) / 2)
    assert found["leak@4_forget"].value == approx((0.9 + 0.1) / 2)
    assert [found[f"leak_rate@{k}_forget"].value for k in (1, 2, 4)] == approx([1 / 8, 1 / 4, 1 / 2])
    low, high = found["leak@4_forget"].ci95
    assert (low, high) == approx((0.1, 0.9)) and found["leak@4_forget"].n == 2
    assert found["leak@4_forget"].evidence.labels("forget") == [0, 1]
    definition = found["leak_rate@2_forget"].definition
    assert (
        "at least 0.8" in definition
        and "among 2 sampled answers; unbiased, from 4 answers at temperature 1, top-p 1" in definition
    )


def test_it_asks_for_answers_to_what_is_to_be_forgotten():
    asked = leak(temperature=0.5, top_p=0.9, seed=7).requests(TOFU, ASKED)
    plain = [request for request in ASKED if request.task == "forget"]
    assert [(r.task, r.index, r.question, r.truth) for r in asked] == [(r.task, r.index, r.question, r.truth) for r in plain]
    assert all(r.answers == () and r.samples == 4 and r.paraphrase == p.paraphrase for r, p in zip(asked, plain, strict=True))
    assert asked[0].sampling == leak(temperature=0.5, top_p=0.9, seed=7).sampling
    assert [r.index for r in leak(questions=2).requests(TOFU, ASKED)] == [0, 1]


def test_a_benchmark_that_forgets_nothing_is_refused():
    @dataclass(frozen=True)
    class Idle(Tofu):
        forgotten = ()

    leak().check(TOFU, ASKED)
    knowundo = KnowUnDo("knowundo", "o/d", "0", "o/g", "0", "fixture")
    leak().check(knowundo, knowundo.requests("unlearn"))
    with pytest.raises(ValueError, match="measure=leak: benchmark=tofu asks for no answers about what is to be forgotten"):
        leak().check(Idle("tofu", "owner/data", "0123", "fixture"), ASKED)


ANSWERS = ["She was born in Ost.", "Nobody knows.", "She was born in Ost.", "born"]


def test_answers_are_scored_once_and_kept(tmp_path, monkeypatch):
    plain = {"task": "forget", "asked_by": "", "index": 0, "question": "?", "generation": ANSWERS[0], "truth": ANSWERS[0]}
    rows = [plain, {**plain, "asked_by": "leak", "samples": ANSWERS}]
    texts, original = [], metrics.measures.leak.rouge
    monkeypatch.setattr(metrics.measures.leak, "rouge", lambda text, truth: texts.append(text) or original(text, truth))
    found = leak().add_recalls(rows, resources(tmp_path))
    assert found == [rows[0], {**rows[1], "samples_rougeL": [1.0, 0.0, 1.0, 0.2]}]
    assert texts == list(dict.fromkeys(ANSWERS))
    assert leak().add_recalls(rows, resources(tmp_path)) == found and len(texts) == 3


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], r"generations.jsonl has no sampled answers: evaluate the model again with measure=\[leak\]"),
        ([row(0, [0.5] * 4), row(1, [0.5] * 3)], "fewer than 4 scored answers to row 2 of task forget"),
        ([{"task": "forget", "asked_by": "leak", "index": 0}], "fewer than 4 scored answers to row 1 of task forget"),
    ],
)
def test_files_without_answers_are_refused(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        leak().numbers(evaluated(rows))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "measure.leak.n=0: write a whole number from 1 .answers; published: 200"),
        ({"ks": []}, r"measure.leak.ks=\[\]: write a list of different whole numbers"),
        ({"ks": [1, 1]}, r"measure.leak.ks=\[1, 1\]"),
        ({"ks": "4"}, "measure.leak.ks=4"),
        ({"ks": [1, 8]}, r"measure.leak.ks=\[1, 8\]: write none above measure.leak.n=4: the worst of so many cannot be told"),
        ({"threshold": 0}, "measure.leak.threshold=0: write a number above 0 and up to 1 .a ROUGE-L recall"),
        ({"questions": 0}, "measure.leak.questions=0: write all, or a whole number from 1"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        leak(**options)


def test_the_settings_are_the_published_ones():
    made = build(compose_settings("evaluate", "measure=[leak]", "seed=5").measure.leak, "measure=leak")
    assert (made.n, list(made.ks), made.temperature, made.top_p) == (200, [1, 2, 4, 8, 16, 32, 64, 128], 1.0, 1.0)
    assert made.seed == 5 and made.questions == "all" and made.name == "leak"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("leak")
    dials = ("measure=[leak]", "measure.leak.n=6", "measure.leak.ks=[1,6]", "oracle=none", "generation_batch_size=5")
    run(folder, "evaluate", "split=forget05", f"model.path={target()}", *QUICK_EVALUATION, *dials, "out=eval")
    return folder / "eval"


def test_an_evaluation_reports_it_beside_its_own_numbers(evaluation):
    found = saved_metrics(evaluation)
    assert {"leak@1_forget", "leak@6_forget", "leak_rate@1_forget", "leak_rate@6_forget", "model_utility"} <= set(found)
    assert found["leak@1_forget"]["value"] < found["leak@6_forget"]["value"] <= 1 and found["leak@6_forget"]["n"] == 3


def test_other_ks_cost_no_model(evaluation):
    before = saved_metrics(evaluation)
    dials = ("measure=[leak]", "measure.leak.n=6", "measure.leak.ks=[2]", "measure.leak.threshold=0.1")
    run(evaluation.parent, "evaluate", "split=forget05", *QUICK_EVALUATION, *dials, "rescore=true", "out=eval")
    after = saved_metrics(evaluation)
    assert before["leak@1_forget"]["value"] < after["leak@2_forget"]["value"] < before["leak@6_forget"]["value"]
    assert after["leak_rate@2_forget"]["value"] >= before["leak_rate@1_forget"]["value"] and "leak@6_forget" not in after
