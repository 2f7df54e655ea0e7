"""Forget quality among oracles, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pytest import approx

from metrics.benchmarks.null_oracles import null_metrics
from metrics.benchmarks.tofu import TaskScores, tofu_metrics


def with_ratios(*ratios: float) -> TaskScores:
    """Scores whose truth ratios are these: one wrong answer, and a right one with p = 1."""
    n = len(ratios)
    return TaskScores(np.ones(n), np.zeros(n), -np.log(np.array(ratios)).reshape(n, 1), np.zeros(n))


ORACLE = with_ratios(0.1, 0.2, 0.3, 0.4)
NEAR = with_ratios(0.15, 0.25, 0.35, 0.45)  # D to ORACLE 1/4
FAR = with_ratios(0.32, 0.42, 0.52, 0.62)  # D to ORACLE 3/4 (all of 0.1, 0.2, 0.3 lie below), to NEAR 2/4
NULLS = [NEAR, FAR]


@pytest.mark.parametrize(
    ("model", "distance", "share"),
    [
        (with_ratios(0.1, 0.2, 0.3, 0.4), 0.0, 4 / 4),  # all of 1/4, 2/4, 3/4 are at least 0
        (with_ratios(0.15, 0.25, 0.35, 0.5), 0.25, 4 / 4),  # a tie counts
        (with_ratios(0.05, 0.06, 0.12, 0.4), 0.5, 3 / 4),
        (with_ratios(0.01, 0.02, 0.03, 0.35), 0.75, 2 / 4),
        (with_ratios(0.6, 0.7, 0.8, 0.9), 1.0, 1 / 4),  # never 0
    ],
)
def test_share_of_pairs_by_hand(model, distance, share):
    found = null_metrics(model, ORACLE, NULLS, resamples=10)
    assert tofu_metrics({"forget": model}, ORACLE, resamples=2)["ks_statistic"].value == approx(distance)
    assert found["forget_quality_null"].value == approx(share) and found["forget_quality_null"].n == 3
    assert found["ks_null_median"].value == 0.5 and found["ks_null_median"].n == 3


def test_the_model_under_test_is_not_part_of_the_null_distribution():
    found = null_metrics(with_ratios(7, 8, 9, 10), ORACLE, [*NULLS, with_ratios(0.11, 0.21, 0.31, 0.41)], resamples=10)
    assert found["forget_quality_null"].n == 6 and found["forget_quality_null"].value == approx(1 / 7)


def test_questions_are_drawn_for_all_models_alike():
    """On any draw the model is as far from its oracle as the oracles are at most from each other, so the share never moves."""
    model = with_ratios(1.1, 1.2, 1.3, 1.4)
    nulls = [with_ratios(2.1, 2.2, 2.3, 2.4), with_ratios(3.1, 3.2, 3.3, 3.4)]
    found = null_metrics(model, ORACLE, nulls, resamples=50)
    assert found["forget_quality_null"].ci95 == (1.0, 1.0) and found["ks_null_median"].ci95 == (1.0, 1.0)


def test_intervals_over_questions_repeat_and_definitions_say_what_was_compared():
    rng = np.random.default_rng(0)
    model, oracle, *nulls = (with_ratios(*rng.random(40)) for _ in range(6))
    found = null_metrics(model, oracle, nulls, compat="open_unlearning", resamples=100)
    assert found == null_metrics(model, oracle, nulls, compat="open_unlearning", resamples=100)
    low, high = found["forget_quality_null"].ci95
    assert 1 / 11 <= low < high <= 1
    for metric in found.values():
        assert "all 10 pairs of 5 retain oracles" in metric.definition and "compat=open_unlearning" in metric.definition
        assert "arXiv 2401.06121" in metric.definition and metric.evidence.samples["forget"].shape == (40, 6)


def test_infinite_truth_ratios_are_the_largest():
    collapsed = TaskScores(np.full(4, 2000.0), np.full(4, 2000.0), np.zeros((4, 1)), np.zeros(4))
    assert null_metrics(collapsed, ORACLE, NULLS, resamples=10)["forget_quality_null"].value == approx(1 / 4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: null_metrics(ORACLE, ORACLE, [NEAR]), "null_runs: 1 given; 2 or more retain oracles of other seeds"),
        (lambda: null_metrics(NEAR, ORACLE, [NEAR, ORACLE]), "entry 2 has the very same truth ratios as the retain oracle"),
        (lambda: null_metrics(NEAR, ORACLE, [FAR, NEAR, FAR]), "entry 3 has the very same truth ratios as entry 1"),
        (lambda: null_metrics(NEAR, ORACLE, [FAR, with_ratios(1.0)]), "have 4, 4, 4, 1 forget questions"),
        (lambda: null_metrics(NEAR, ORACLE, NULLS, compat="ou"), "compat=ou"),
    ],
)
def test_what_gives_no_distribution_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
