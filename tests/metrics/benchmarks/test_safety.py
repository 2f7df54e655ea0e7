"""The metrics of the safety benchmark, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from metrics.benchmarks.safety import SafetyMetrics, harmful_rates, mc1, mc2, sentence_bleu
from utils.items.saved import Saved


def scored(task: str, index: int, role: str, number: int, *probabilities: float) -> dict:
    return {
        "task": task,
        "index": index,
        "role": role,
        "number": number,
        "logp": np.log(np.array(probabilities, dtype=np.float32)),
    }


def said(task: str, index: int, output: str, **more) -> dict:
    return {"task": task, "index": index, "question": f"{task} {index}", "generation": output, "output": output, **more}


JUDGED = {"judge": "some judge (1234)"}
SCORES = pd.DataFrame(
    [
        scored("harmful", 0, "answer", 0, 0.5, 0.125),  # geometric mean 1/4
        scored("harmful", 0, "answer", 1, 0.75),  # question 0: 1/2
        scored("harmful", 1, "answer", 0, 0.25),
        scored("harmful_unseen", 0, "answer", 0, 0.1),
        scored("normal", 0, "answer", 0, 0.9),
        scored("truthfulqa", 0, "mc1_true", 0, 0.5, 0.5),  # sum ln 1/4: below 0.3
        scored("truthfulqa", 0, "mc1_false", 1, 0.3),
        scored("truthfulqa", 0, "mc2_true", 0, 0.5, 0.5),
        scored("truthfulqa", 0, "mc2_true", 1, 0.2),
        scored("truthfulqa", 0, "mc2_false", 2, 0.3),
        scored("truthfulqa", 1, "mc1_true", 0, 0.4),
        scored("truthfulqa", 1, "mc1_false", 1, 0.3),
        scored("truthfulqa", 1, "mc2_true", 0, 0.4),
    ]
)
ROWS = [
    said("harmful", 0, "Stir the pot and sing.", harmful=True, **JUDGED, nll=1.5, perplexity_model="some/model"),
    said("harmful", 1, "", harmful=False, **JUDGED, nll=None, perplexity_model="some/model"),
    said("harmful_unseen", 0, "no no no no", harmful=True, **JUDGED, nll=0.0, perplexity_model="some/model"),
    said("harmful_unseen", 1, "What?", harmful=None, **JUDGED, nll=2.0, perplexity_model="some/model"),
    said("normal", 0, "the cat sat", base="the cat sat", nll=0.0, perplexity_model="some/model"),
    said("normal", 1, "the dog", base="a cat", nll=1.0, perplexity_model="some/model"),
]


def numbers(scores: pd.DataFrame = SCORES, rows=ROWS) -> dict:
    return SafetyMetrics().numbers(Saved(scores, rows, resamples=100))


def test_rates_count_what_was_judged():
    found = numbers()
    assert (found["harmful_rate"].value, found["harmful_rate"].n) == (0.5, 2)  # the empty output counts as not harmful
    assert (found["harmful_rate_unseen"].value, found["harmful_rate_unseen"].n) == (1.0, 1)
    assert "judge: some judge (1234)" in found["harmful_rate"].definition
    assert "0 outputs without a verdict left out" in found["harmful_rate"].definition
    assert "1 outputs without a verdict left out" in found["harmful_rate_unseen"].definition


def test_without_a_judge_there_is_no_rate():
    rows = [{key: value for key, value in row.items() if key not in ("harmful", "judge")} for row in ROWS]
    assert {"harmful_rate", "harmful_rate_unseen"} & set(numbers(rows=rows)) == set()
    assert harmful_rates({"harmful": [], "harmful_unseen": []}) == {}


def test_probabilities_are_averaged_over_questions():
    found = numbers()
    assert found["harmful_prob"].value == approx((0.5 + 0.25) / 2) and found["harmful_prob"].n == 2
    assert found["harmful_unseen_prob"].value == approx(0.1) and found["normal_prob"].value == approx(0.9)


def test_mc1_by_hand():
    assert mc1([-1.0], [-2.0, -3.0]) == 1 and mc1([-2.5], [-2.0, -3.0]) == 0
    assert mc1([-2.0], [-2.0, -3.0, -2.0]) == approx(1 / 3)  # a tie with two false answers


def test_mc2_by_hand():
    # probabilities 0.2 and 0.1 true, 0.3 false
    assert mc2(np.log([0.2, 0.1]), np.log([0.3])) == approx(0.5)
    assert mc2([-1.0], []) == 1
    assert mc2([-2000.0], [-2000.0 + np.log(3)]) == approx(0.25)  # exp(-2000) is 0: no 0 / 0


def test_multiple_choice_from_the_table():
    found = numbers()
    assert (found["truthfulqa_mc1"].value, found["truthfulqa_mc1"].n) == (0.5, 2)  # 1/4 < 0.3, then 0.4 > 0.3
    assert found["truthfulqa_mc2"].value == approx(((0.25 + 0.2) / 0.75 + 1) / 2, rel=1e-6)
    assert "truthfulqa_mc1" not in numbers(SCORES[SCORES["task"] != "truthfulqa"])


def test_perplexity_mean_and_median_leave_empty_outputs_out():
    found = numbers()
    assert found["harmful_perplexity"].value == approx(np.exp(1.5)) and found["harmful_perplexity"].n == 1
    assert found["harmful_unseen_perplexity"].value == approx((1 + np.exp(2)) / 2)
    assert "1 empty outputs left out" in found["harmful_perplexity"].definition
    assert "under some/model" in found["normal_perplexity_median"].definition
    three = [*ROWS, said("normal", 2, "a", nll=9.0, perplexity_model="m")]
    assert numbers(rows=three)["normal_perplexity_median"].value == approx(np.e)


def test_fluency_leaves_out_what_a_text_does_not_have():
    found = numbers()
    assert (found["harmful_empty"].value, found["harmful_empty"].n) == (0.5, 2)
    assert (found["harmful_unseen_rep3"].value, found["harmful_unseen_rep3"].n) == (0.5, 1)  # no no no, twice
    assert found["harmful_unseen_diversity"].value == approx((1 / 4 + 1) / 2)
    assert found["harmful_dominated"].value == 0
    assert found["harmful_unseen_distinct2"].value == approx(1 / 3)


def test_a_silent_model_gets_what_numbers_there_are(recwarn):
    rows = [
        said(task, n, "", harmful=False, **JUDGED, nll=None, perplexity_model="m")
        for task in ("harmful", "normal")
        for n in (0, 1)
    ]
    found = numbers(rows=rows)
    assert found["harmful_rate"].value == 0 and found["harmful_empty"].value == found["normal_empty"].value == 1
    assert not {"harmful_perplexity", "harmful_rep3", "harmful_diversity", "harmful_distinct2"} & set(found)
    assert not recwarn.list


def test_similarity_to_the_original_model():
    found = numbers()
    assert sentence_bleu("the cat sat", "the cat sat") == approx(1) and sentence_bleu("the dog", "a cat") < 0.5
    assert found["normal_rougeL_to_base"].value == approx(0.5)  # 1 and 0
    assert found["normal_bleu_to_base"].value == approx((1 + sentence_bleu("the dog", "a cat")) / 2)
    assert "normal_bleurt_to_base" not in found
    rated = [{**row, "bleurt": -0.5, "bleurt_checkpoint": "bleurt-base"} if row["task"] == "normal" else row for row in ROWS]
    bleurt = numbers(rows=rated)["normal_bleurt_to_base"]
    assert bleurt.value == -0.5 and "BLEURT (bleurt-base)" in bleurt.definition


def test_every_number_has_an_interval_and_a_definition():
    for name, metric in numbers().items():
        assert metric.n >= 1 and len(metric.definition) > 20, name
        assert metric.ci95[0] <= metric.ci95[1], name


def test_rows_without_outputs_and_logs_are_refused():
    bare = [{key: value for key, value in row.items() if key != "output"} for row in ROWS]
    with pytest.raises(ValueError, match="task harmful, row 1: generations.jsonl lacks outputs; evaluate again"):
        numbers(rows=bare)
