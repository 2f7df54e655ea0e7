"""Numbers of own data by hand, and the plain words that they are put into."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metrics.benchmarks.own import OwnMetrics
from metrics.benchmarks.own_verdict import verdict
from metrics.refusals import is_refusal
from utils.items.saved import Saved


def answer(task: str, index: int, probability: float, role: str = "answer", number: int = 0) -> dict:
    logp = np.full(2, np.log(probability))
    whole = {"task": task, "index": index, "role": role, "number": number, "tokens": 2, "eos": False, "asked_by": ""}
    return {**whole, "logp": logp, "hit": logp > np.log(0.5), "wanted": "Ann came", "entropy": -logp, "logp_variance": np.ones(2)}


def said(task: str, index: int, generation: str) -> dict:
    return {"task": task, "index": index, "asked_by": "", "question": "Who?", "truth": "Ann came", "generation": generation}


def saved(*tasks: str, **more: object) -> Saved:
    scores = [answer(task, index, probability) for task in tasks for index, probability in enumerate((0.9, 0.4))]
    rows = [said(task, index, text) for task in tasks for index, text in enumerate(("Ann came", "I'm sorry, Ann"))]
    return Saved(pd.DataFrame(scores), rows, resamples=100, forgotten=("forget",), members=("forget", "holdout"), **more)


def test_numbers_by_hand():
    found = {name: metric.value for name, metric in OwnMetrics().numbers(saved("forget", "retain")).items()}
    assert found["forget_prob"] == pytest.approx((0.9 + 0.4) / 2)
    assert (found["forget_rougeL_recall"], found["forget_recited"], found["forget_refusals"]) == (0.75, 0.5, 0.5)
    assert found["forget_words"] == 2.5 and found["retain_empty"] == 0
    assert found["exact_memorization_forget"] == 0.5
    assert not [name for name in found if name.startswith(("mia", "forget_truth", "holdout"))]


def test_a_holdout_adds_attacks_and_wrong_answers_the_truth_ratio():
    plain = saved("forget", "holdout")
    wrong = [answer("forget", 0, 0.3, "perturbed", number) for number in (0, 1)] + [answer("forget", 0, 0.6, "paraphrased")]
    scores = pd.concat([plain.scores, pd.DataFrame(wrong)], ignore_index=True)
    found = OwnMetrics().numbers(
        Saved(scores, plain.generations, scores, resamples=100, forgotten=("forget",), members=plain.members)
    )
    assert found["mia_loss"].value == 0.5  # both tasks have the same probabilities
    assert (found["forget_truth_ratio"].value, found["forget_truth_ratio"].n) == (pytest.approx(0.5), 1)  # R = 0.3 / 0.6
    assert found["forget_quality"].value == 1.0  # compared with itself


@pytest.mark.parametrize(
    "text", ["I don't know.", "I’m sorry, I cannot", "Sorry - no.", "Unfortunately", "As an AI", "There's no record of"]
)
def test_refusals_are_known(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text", ["", "Ann knows.", "I know it: Ann.", "Notably, I think so", "No. 5, Mill Lane", "The sorry state of it"]
)
def test_answers_are_no_refusals(text):
    assert not is_refusal(text)


def numbers(**values: float) -> dict:
    return {name: {"value": value, "n": 40, "ci95": [value - 0.02, value + 0.02]} for name, value in values.items()}


FORGOT = numbers(
    forget_recited=0.0,
    forget_recited_before=1.0,
    forget_rougeL_recall=0.3,
    forget_rougeL_recall_before=1.0,
    holdout_rougeL_recall=0.1,
    holdout_rougeL_recall_before=0.3,
    forget_prob=0.02,
    forget_prob_before=0.9,
    holdout_prob=0.01,
    holdout_prob_before=0.1,
    mia_loss=0.5,
    retain_rougeL_recall=0.98,
    retain_rougeL_recall_before=1.0,
)


def test_the_verdict_of_a_model_that_forgot():
    still, lost, untested = verdict(FORGOT)
    assert "of 40 answers the model gives away 0 (before 40)" in still
    assert "No trace of it is found: 0% in its own answers and 0% in the probability" in still
    assert "It says less than of rows that it never saw" in still  # 0.02 where unseen rows had 0.1
    assert "No attack finds them likelier than unseen rows" in still
    guessing, *_ = verdict({**FORGOT, **numbers(holdout_recited_before=0.3)})
    assert "By the same count it gave away 12 of 40 that it never saw" in guessing and "By the same count" not in still
    assert "(ROUGE-L) 1.00 -> 0.98." in lost and "(lost)" not in lost
    assert "benchmark.general=FILE" in untested and "benchmark.holdout" not in untested


def test_the_verdict_of_a_model_that_did_not():
    still, lost, _ = verdict(
        {**FORGOT, **numbers(forget_recited=0.6, forget_rougeL_recall=0.8, mia_min_k=0.9, retain_rougeL_recall=0.4)}
    )
    assert "gives away 24" in still and "Most of it is left: 71% in its own answers" in still
    assert "An attack tells the rows from unseen ones (AUC 0.90, mia_min_k)" in still
    assert "1.00 -> 0.40 (lost)" in lost


def test_the_verdict_says_what_it_cannot_say():
    assert verdict({}) == ["Nothing was asked about what is to be forgotten, so nothing is said."]
    still, lost, untested = verdict(numbers(forget_recited=0.0, forget_recited_before=0.0, forget_rep3=0.8))
    assert "perhaps it never knew these rows" in still and "(lost)" not in lost and "Lost: unknown" in lost
    assert "repeat themselves (rep-3 0.80): broken, not silent" in lost and "benchmark.holdout=FILE" in untested
