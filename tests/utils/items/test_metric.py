from __future__ import annotations

import json
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from pytest import approx
from scipy import stats

from utils.items.metric import (
    Evidence,
    Metric,
    bootstrap_ci,
    bootstrap_joint,
    ks_distance,
    ks_intervals,
    ks_pvalue_statistic,
    ks_test,
    measured,
)


def test_metric_to_json_is_plain_json():
    metric = Metric(value=0.5, n=4, ci95=(0.25, 0.75), definition="mean of four")
    assert json.loads(json.dumps(metric.to_json())) == {
        "value": 0.5, "n": 4, "ci95": [0.25, 0.75], "definition": "mean of four",
    }  # fmt: skip


def test_interval_matches_the_exact_bootstrap_distribution():
    # All 4^4 resamples of four values are equally likely: their quantiles are what the bootstrap estimates.
    values = [0.0, 1.0, 2.0, 7.0]
    means = [np.mean(draw) for draw in product(values, repeat=4)]
    low, high = bootstrap_ci(values, resamples=100_000)
    assert (low, high) == approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)  # the means are a lattice of 1/4


def test_interval_of_a_mean_has_the_width_of_normal_theory():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=1000)
    low, high = bootstrap_ci(values, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert (low, high) == approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_same_seed_same_interval_and_level_widens():
    values = np.arange(50.0)
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(values, seed=3)
    assert bootstrap_ci(values, seed=3) != bootstrap_ci(values, seed=4)


@pytest.mark.parametrize("chunk", [1, 7 * 13, 2**22])
def test_vectorised_mean_equals_the_one_by_one_path(monkeypatch, chunk):
    monkeypatch.setattr("utils.items.metric._CHUNK", chunk)
    values = np.random.default_rng(0).random(13)
    slow = bootstrap_ci(values, statistic=lambda v: float(np.mean(v)), resamples=100)
    assert bootstrap_ci(values, resamples=100) == approx(slow, abs=1e-15)


def test_other_statistics():
    assert bootstrap_ci([0.0, 0.0, 0.0, 9.0], statistic=np.max, resamples=500) == (0.0, 9.0)


def test_one_item_leaves_nothing_to_resample():
    assert bootstrap_ci([0.3]) == (0.3, 0.3)
    assert bootstrap_ci([np.inf]) == (np.inf, np.inf)
    groups = {"one": np.array([0.3]), "many": np.arange(5.0)}
    assert bootstrap_joint(groups, lambda s: s["one"].mean() + s["many"].mean()) == (2.3, 2.3)


def test_rows_of_a_group_stay_together_and_groups_do_not():
    column = np.random.default_rng(0).random(30)
    pair = np.column_stack([column, 1.0 - column])
    together = bootstrap_joint({"a": pair}, lambda s: s["a"].mean(axis=0).sum(), resamples=200)
    assert together == approx((1.0, 1.0), abs=1e-12)
    low, high = bootstrap_joint({"a": pair[:, 0], "b": pair[:, 1]}, lambda s: s["a"].mean() + s["b"].mean(), resamples=200)
    assert low < 0.95 and high > 1.05


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bootstrap_ci([]), "no items"),
        (lambda: bootstrap_ci([0.1, float("nan")]), "item 1 is NaN"),
        (lambda: bootstrap_ci(0.5), "single number"),
        (lambda: bootstrap_ci([0.1, 0.2], resamples=0), "resamples=0"),
        (lambda: bootstrap_joint({}, lambda s: 0.0), "no group"),
        (lambda: bootstrap_joint({"a": np.array([[1.0, np.nan], [1, 1]])}, lambda s: 0.0), "a: item 0 is NaN"),
        (lambda: bootstrap_ci([0.0, 1.0], statistic=lambda v: float("nan"), resamples=5), "NaN on 5 of 5 resamples"),
        (lambda: ks_test([], [1.0]), "first sample: there are no items"),
        (lambda: ks_test([1.0], [np.nan]), "second sample: item 0 is NaN"),
        (lambda: ks_test(np.arange(50_000.0), np.arange(49_999.0)), "50000 against 49999 items: too many"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_ks_by_counting_all_orders():
    # 2 against 3 values: D is 1 for 2 of the 10 equally likely orders, and at least 2/3 for 6 of them.
    assert ks_test([0.1, 0.2], [0.3, 0.4, 0.5]) == approx((1.0, 0.2), abs=1e-12)
    assert ks_test([0.1, 0.35], [0.3, 0.4, 0.5]) == approx((2 / 3, 0.6), abs=1e-12)


@pytest.mark.parametrize(("n", "steps"), [(5, 1), (7, 1), (60, 2), (300, 2), (400, 1), (400, 5)])
def test_ks_of_nearly_equal_samples(n, steps):
    """Lattice paths in whole numbers: p = 2 sum_k (-1)^(k+1) C(2n, n - k steps) / C(2n, n). SciPy finds a bit more than 1."""
    paths = sum((-1) ** (k + 1) * comb(2 * n, n - k * steps) for k in range(1, n // steps + 1))
    found = ks_test(np.arange(n), np.arange(n) + steps - 0.5)
    assert found.statistic == approx(steps / n) and found.pvalue == approx(float(Fraction(2 * paths, comb(2 * n, n))), abs=1e-12)


def test_ks_ranks_infinity_as_the_largest_value():
    assert ks_test([1.0, np.inf], [2.0, 3.0]) == ks_test([1.0, 4.0], [2.0, 3.0])
    assert ks_test([np.inf, np.inf], [np.inf, np.inf]) == (0.0, 1.0)


def test_ks_intervals_equal_a_bootstrap_without_shortcuts():
    rng = np.random.default_rng(5)
    first, second = rng.random(20), rng.random(12) + 0.2
    distance, pvalue = ks_intervals(first, second, resamples=50, seed=7)
    samples = {"first": first, "second": second}

    def direct(s):
        return stats.ks_2samp(s["first"], s["second"], method="exact")

    assert distance == approx(bootstrap_joint(samples, lambda s: direct(s).statistic, 50, 7), abs=1e-12)
    assert pvalue == approx(bootstrap_joint(samples, lambda s: direct(s).pvalue, 50, 7), rel=1e-9)


def test_ks_statistics_of_other_resamples_are_not_mixed_up():
    """Distance 1 is possible for 2 against 3 items with p = 0.2 and for 3 against 3 items with p = 2 / 20."""
    pvalue = ks_pvalue_statistic()
    three = np.array([0.3, 0.4, 0.5])
    for first, wanted in ((np.array([0.1, 0.2]), 0.2), (np.array([0.0, 0.1, 0.2]), 0.1), (np.array([0.1, 0.2]), 0.2)):
        samples = {"first": first, "second": three}
        assert ks_distance(samples) == 1.0 and pvalue(samples) == approx(wanted)


def test_a_mean_is_measured_in_one_call():
    metric = measured({"forget": [0.0, 1.0, 1.0, 1.0]}, "mean of four", resamples=200, seed=2)
    assert (metric.value, metric.n, metric.definition) == (0.75, 4, "mean of four")
    assert metric.ci95 == bootstrap_ci([0.0, 1.0, 1.0, 1.0], resamples=200, seed=2)
    assert metric.evidence.samples["forget"].tolist() == [0.0, 1.0, 1.0, 1.0] and metric.evidence.labels("forget") == [0, 1, 2, 3]


def test_a_statistic_of_several_groups_is_measured_in_one_call():
    samples = {"members": np.arange(4.0), "others": np.arange(6.0)}

    def gap(s):
        return s["others"].mean() - s["members"].mean()

    metric = measured(samples, "gap", gap, resamples=100, items={"others": list("abcdef")})
    assert (metric.value, metric.n) == (1.0, 10) and metric.ci95 == bootstrap_joint(samples, gap, resamples=100)
    assert metric.evidence.labels("others") == list("abcdef") and measured(samples, "gap", gap, n=6, resamples=1).n == 6


def test_evidence_is_neither_written_nor_compared():
    metric = measured({"forget": [0.0, 1.0]}, "mean", resamples=10)
    assert set(metric.to_json()) == {"value", "n", "ci95", "definition"}
    assert metric == Metric(metric.value, 2, metric.ci95, "mean") and "evidence" not in repr(metric)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: measured({"a": []}, "mean"), "a: there are no items"),
        (lambda: measured({"a": [1.0, np.nan]}, "mean"), "a: item 1 is NaN"),
        (
            lambda: measured({"a": [1.0, 2.0]}, "mean", varies="3 left out"),
            "'3 left out' does not stand in the definition 'mean'",
        ),
        (lambda: Evidence({"a": [1.0, 2.0]}, items={"b": [0, 1]}), "items: b is no group; groups are a"),
        (lambda: Evidence({"a": [1.0, 2.0]}, items={"a": [0]}), "a needs 2 distinct names"),
        (lambda: Evidence({"a": [1.0, 2.0]}, items={"a": [7, 7]}), "a needs 2 distinct names"),
    ],
)
def test_evidence_that_names_nothing_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
