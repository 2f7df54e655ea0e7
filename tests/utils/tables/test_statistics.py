"""Seeds, families of tests and subjects: values that a person can check, SciPy's tests, and slow loops."""

from __future__ import annotations

from itertools import product
from math import inf, isnan, nan

import numpy as np
import pytest
from pytest import approx
from scipy.stats import ttest_rel

from utils.evaluation.resampling import resampled, strata
from utils.items.metric import Evidence, Metric, ks_distance, measured
from utils.tables.statistics import clustered_difference, holm, paired_t, spread


def metric(values, subjects=None, group: str = "forget", statistic=None) -> Metric:
    """A mean (or a statistic) over items of which `subjects` says whom they are about."""
    chosen = {} if statistic is None else {"statistic": statistic}
    found = measured({group: np.asarray(values, float)}, "mean", resamples=1, **chosen)
    return found if subjects is None else found.clustered(lambda _, index: subjects[index])


def test_spread_by_hand():
    found = spread([1.0, 2.0, 6.0])  # deviations -2, -1, 3: 14 / 2 = 7
    assert (found.mean, found.sd, found.n) == (3.0, approx(7**0.5), 3)
    assert isnan(spread([0.4]).sd) and spread([0.4]).n == 1
    assert spread([1.0, inf]).mean == inf and isnan(spread([1.0, inf]).sd)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_paired_t_by_hand_and_as_scipy():
    """Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom, whose 97.5 % point is 4.30265."""
    first, second = {0: 0.5, 1: 0.0, 2: -1.0}, {2: 2.0, 0: 1.5, 1: 2.0}
    found = paired_t(first, second)
    assert (found.mean, found.n) == (2.0, 3)
    assert found.ci95 == approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-5)
    assert found.p == approx(ttest_rel([1.5, 2.0, 2.0], [0.5, 0.0, -1.0]).pvalue, rel=1e-12) == approx(0.07418, abs=1e-5)
    back = paired_t(second, first)
    assert (back.mean, back.p) == (-2.0, found.p) and back.ci95 == approx((-found.ci95[1], -found.ci95[0]))


def test_paired_t_pairs_by_seed_and_says_where_it_cannot_test():
    assert paired_t({0: 1.0, 1: 5.0}, {1: 6.0, 7: 0.0}) == paired_t({1: 5.0}, {1: 6.0})
    alone = paired_t({1: 5.0}, {1: 6.0})
    assert (alone.mean, alone.n, alone.ci95, alone.p) == (1.0, 1, None, None)
    without_spread = paired_t({0: 0.1, 1: 0.2, 2: 0.3}, {0: 0.2, 1: 0.3, 2: 0.4})  # 0.1 thrice, but for rounding
    assert without_spread.mean == approx(0.1) and without_spread.p is None
    assert paired_t({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    with pytest.raises(ValueError, match="no seed in common"):
        paired_t({0: 1.0}, {1: 1.0})


def test_holm_by_hand():
    """4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which may not fall below the one before it."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({"a": 0.03}) == {"a": 0.03} and holm({}) == {}
    with pytest.raises(ValueError, match="p=nan of b"):
        holm({"a": 0.1, "b": nan})


def test_subjects_are_drawn_as_a_whole():
    """Four authors with five equal answers each are four draws, not twenty: all 4^4 resamples give the exact quantiles."""
    of_author = [0.0, 1.0, 2.0, 7.0]
    values, subjects = np.repeat(of_author, 5), [f"author {index // 5}" for index in range(20)]
    zero = metric(np.zeros(20), subjects)
    found = clustered_difference([zero], [metric(values, subjects)], resamples=8000)
    exact = np.quantile([np.mean(draw) for draw in product(of_author, repeat=4)], [0.025, 0.975])
    assert found.ci95 == approx(tuple(exact), abs=1e-12) and (found.value, found.units) == (2.5, 4)
    by_question = clustered_difference([metric(np.zeros(20))], [metric(values)])
    assert by_question.units == 20 and by_question.ci95[1] - by_question.ci95[0] < (exact[1] - exact[0]) / 1.5


def test_aggregates_of_all_seeds_are_computed_anew_on_the_same_subjects():
    """The largest value is no mean of anything: against a loop that draws for itself."""
    rng = np.random.default_rng(2)
    subjects = ["a", "b", "a", "c", "b", "d"]
    runs = [metric(rng.random(6), subjects, statistic=lambda samples: samples["forget"].max()) for _ in range(4)]
    found = clustered_difference(runs[:2], runs[2:], resamples=50, seed=3)
    draws, slow = np.random.default_rng(3), []
    rows_of = {0: [0, 2], 1: [1, 4], 2: [3], 3: [5]}
    for _ in range(50):
        rows = [row for unit in draws.integers(4, size=4) for row in rows_of[unit]]
        largest = [run.evidence.samples["forget"][rows].max() for run in runs]
        slow.append(np.mean(largest[2:]) - np.mean(largest[:2]))
    assert found.ci95 == approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert found.value == approx(np.mean([run.value for run in runs[2:]]) - np.mean([run.value for run in runs[:2]]))


def test_groups_about_the_same_subjects_are_drawn_together():
    """Model and oracle answer the same questions: equal samples stay equal, so their distance is 0 on every resample."""
    values = np.arange(6.0)
    items = {group: [("forget", index) for index in range(6)] for group in ("first", "second")}
    number = Metric(0.0, 6, (0.0, 0.0), "D", Evidence({"first": values, "second": values}, ks_distance, items))
    known = number.clustered(lambda task, index: f"{task} {index // 2}").evidence
    assert [(stratum.units, list(stratum.places)) for stratum in strata([known], by_cluster=True)] == [(3, ["first", "second"])]
    assert (resampled([known], 20, by_cluster=True) == 0).all() and (resampled([known], 20) > 0).any()


def test_a_group_that_joins_two_others_makes_them_one():
    samples = {name: np.zeros(2) for name in "abc"}
    evidence = Evidence(samples, lambda _: 0.0, clusters={"a": ["x", "y"], "b": ["z", "u"], "c": ["y", "z"]})
    (only,) = strata([evidence], by_cluster=True)
    assert only.units == 4 and set(only.places) == {"a", "b", "c"}
    assert len(strata([evidence])) == 3


def test_one_subject_leaves_nothing_to_draw():
    one = metric([0.0, 1.0], ["a", "a"])
    with pytest.raises(ValueError, match="the group forget has one subject"):
        clustered_difference([one], [one])


def test_what_stands_alone_is_a_subject_of_its_own():
    known = metric([0.0, 1.0, 2.0], ["a", None, "a"]).evidence
    assert list(known.clusters["forget"]) == ["a", "forget, 1", "a"]
    with pytest.raises(ValueError, match="clusters: forget needs 2 subjects"):
        Evidence({"forget": np.zeros(2)}, clusters={"forget": ["a"]})
