from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from pytest import approx
from scipy import stats

from metrics.statistics import Metric, bootstrap_ci, bootstrap_joint, ks_intervals, ks_test


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
    low, high = bootstrap_ci(values, level=0.95)
    wide_low, wide_high = bootstrap_ci(values, level=0.99)
    assert wide_low < low < high < wide_high


@pytest.mark.parametrize("chunk", [1, 7 * 13, 2**22])
def test_vectorised_mean_equals_the_one_by_one_path(monkeypatch, chunk):
    monkeypatch.setattr("metrics.statistics._CHUNK", chunk)
    values = np.random.default_rng(0).random(13)
    slow = bootstrap_ci(values, statistic=lambda v: float(np.mean(v)), resamples=100)
    assert bootstrap_ci(values, resamples=100) == approx(slow, abs=1e-15)


def test_other_statistics():
    assert bootstrap_ci([0.0, 0.0, 0.0, 9.0], statistic=np.max, resamples=500) == (0.0, 9.0)


def test_one_item_leaves_nothing_to_resample():
    assert bootstrap_ci([0.3]) == (0.3, 0.3)
    groups = {"one": np.array([0.3]), "many": np.arange(5.0)}
    assert bootstrap_joint(groups, lambda s: s["one"].mean() + s["many"].mean()) == (2.3, 2.3)


def test_rows_of_a_group_stay_together_and_groups_do_not():
    column = np.random.default_rng(0).random(30)
    pair = np.column_stack([column, 1.0 - column])
    together = bootstrap_joint({"a": pair}, lambda s: s["a"].mean(axis=0).sum(), resamples=200)
    assert together == approx((1.0, 1.0), abs=1e-12)
    low, high = bootstrap_joint(
        {"a": pair[:, 0], "b": pair[:, 1]}, lambda s: s["a"].mean() + s["b"].mean(), resamples=200
    )
    assert low < 0.95 and high > 1.05


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bootstrap_ci([]), "no items"),
        (lambda: bootstrap_ci([0.1, float("nan")]), "item 1 is NaN"),
        (lambda: bootstrap_ci(0.5), "single number"),
        (lambda: bootstrap_ci([0.1, 0.2], resamples=0), "resamples=0"),
        (lambda: bootstrap_ci([0.1, 0.2], level=95), "level=95"),
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
