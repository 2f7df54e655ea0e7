"""Paired differences by hand and against a slow bootstrap, and what the metrics of every benchmark keep for it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import pytest
from pytest import approx

from metrics.benchmarks.knowundo import KnowUnDoMetrics
from metrics.benchmarks.tofu import tofu_metrics
from tests.metrics.benchmarks import test_knowundo as knowundo
from tests.metrics.benchmarks import test_safety as safety
from tests.metrics.benchmarks import test_tofu as tofu
from tests.metrics.benchmarks import test_utility as utility
from utils.evaluation.paired import paired_difference, two_sided_p
from utils.items.metric import Evidence, Metric, ks_distance, ks_pvalue_statistic, measured
from utils.items.saved import Saved


def mean(values, definition: str = "mean", **options) -> Metric:
    return measured({"forget": values}, definition, resamples=1, **options)


def named(values: Mapping[Hashable, float], **options) -> Metric:
    return mean(list(values.values()), items={"forget": list(values)}, **options)


def test_p_value_by_hand():
    """Of nine differences 1 is at most 0 and 9 are at least 0: 2 (1 + 1) / (1 + 9). A tie counts on both sides."""
    assert two_sided_p(np.array([0.0, 1, 1, 2, 2, 3, 3, 4, 4])) == approx(0.4)
    assert two_sided_p(-np.array([0.0, 1, 1, 2, 2, 3, 3, 4, 4])) == approx(0.4)
    assert two_sided_p(np.array([-1.0, 1.0])) == 1.0  # 2 (1 + 1) / 3 is more than 1
    assert two_sided_p(np.ones(999)) == approx(0.002)


def test_two_items_by_hand():
    """Item differences 1 and -0.5: means 1, 0.25 (twice as likely) and -0.5. A quarter is at most 0, so p is near a half."""
    found = paired_difference(mean([0.0, 0.5]), mean([1.0, 0.0]), resamples=20_000)
    assert found.value == 0.25 and found.ci95 == (-0.5, 1.0) and found.p == approx(0.5, abs=0.01)


def test_hard_and_easy_questions_cancel_out():
    """B is better by 0.1 on every question, however much these differ; 2 / 101 is the least p of 100 resamples."""
    easy = np.random.default_rng(0).normal(size=50)
    found = paired_difference(mean(easy), mean(easy + 0.1), resamples=100)
    assert found.ci95 == approx((0.1, 0.1)) and found.p == approx(2 / 101)
    low, high = mean(easy).evidence.interval(100)
    assert high - low > 0.4  # while the interval of each alone is wide


def test_the_same_run_twice_does_not_differ():
    for metric in (mean([0.3, 0.1, 0.7]), *tofu_metrics(tofu.all_tasks(), tofu.scores(7), resamples=1).values()):
        found = paired_difference(metric, metric, resamples=50)
        assert (found.value, found.ci95, found.p) == (0.0, (0.0, 0.0), 1.0)


def test_the_other_way_round_is_minus_the_same():
    rng = np.random.default_rng(3)
    one, other = named(dict(enumerate(rng.random(20)))), named(dict(reversed(list(enumerate(rng.random(20))))))
    there, back = paired_difference(one, other, 200, seed=5), paired_difference(other, one, 200, seed=5)
    assert back.value == -there.value and back.ci95 == approx((-there.ci95[1], -there.ci95[0])) and back.p == there.p
    assert paired_difference(one, other, 200, seed=6).ci95 != there.ci95


def test_a_statistic_is_computed_on_the_same_questions_of_both_runs():
    """The product of two groups' means, against a loop that draws for itself."""
    rng = np.random.default_rng(4)
    tables = [{"a": rng.random((6, 2)), "b": rng.random(9)} for _ in range(2)]

    def product(samples):
        return samples["a"][:, 0].mean() * samples["b"].mean()

    found = paired_difference(*(measured(table, "product", product, resamples=1) for table in tables), resamples=30, seed=8)
    draws, slow = np.random.default_rng(8), []
    for _ in range(30):
        chosen = {"a": draws.integers(6, size=6), "b": draws.integers(9, size=9)}
        values = [product({name: table[name][rows] for name, rows in chosen.items()}) for table in tables]
        slow.append(values[1] - values[0])
    assert found.ci95 == approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert found.value == approx(product(tables[1]) - product(tables[0]))


def test_a_question_that_one_run_left_out_counts_for_the_other():
    """Run B lacks question 2: its mean is over the draws that are not 2. Names pair, not places."""
    first, second = {0: 1.0, 1: 2.0, 2: 30.0, 3: 4.0}, {3: 4.5, 1: 2.5, 0: 0.5}
    found = paired_difference(named(first), named(second), resamples=60, seed=9)
    assert found.value == approx(7.5 / 3 - 37 / 4)
    draws, slow = np.random.default_rng(9), []
    while len(slow) < 60:
        chosen = draws.integers(4, size=4).tolist()
        there = [second[question] for question in chosen if question in second]
        if there:
            slow.append(np.mean(there) - np.mean([first[question] for question in chosen]))
    assert found.ci95 == approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_questions_of_several_tasks_are_told_apart_by_both_names():
    first, second = {("forget", 0): 1.0, ("retain", 0): 2.0}, {("retain", 0): 2.5, ("forget", 0): 1.5}
    assert paired_difference(named(first), named(second), 20).ci95 == (0.5, 0.5)


def test_a_run_with_hardly_any_items_is_drawn_until_it_has_one(recwarn):
    found = paired_difference(named({0: 5.0}), named({0: 1.0, 1: 2.0, 2: 3.0}), resamples=200)
    assert found.value == -3.0 and -4.0 <= found.ci95[0] <= found.ci95[1] <= -2.0 and not recwarn.list


def test_ks_statistics_are_drawn_with_the_same_questions_and_the_same_oracle():
    rng = np.random.default_rng(1)
    oracle, one = rng.random(30), rng.random(30)
    for statistic in (ks_distance, ks_pvalue_statistic()):
        metrics = [measured({"first": r, "second": oracle}, "KS", statistic, resamples=1) for r in (one, one**3)]
        found = paired_difference(*metrics, resamples=100)
        assert found.value == approx(statistic(metrics[1].evidence.samples) - statistic(metrics[0].evidence.samples))
        assert found.ci95[0] < found.ci95[1]


ENDLESS = Metric(np.inf, 2, (1, np.inf), "mean", Evidence({"forget": [1, np.inf]}))


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (Metric(0.5, 4, (0, 1), "mean"), mean([1, 2]), "keeps no values per question"),
        (mean([1, 2]), mean([1, 2], "median"), "defined differently: 'mean' and 'median'"),
        (mean([1, 2]), mean([1, 2, 3]), "2 and 3 items of the group forget and no names to pair them by"),
        (mean([1, 2]), measured({"retain": [1, 2]}, "mean", resamples=1), "only one of the runs has items of the group forget"),
        (mean([1]), mean([2]), "the group forget has one question"),
        (ENDLESS, ENDLESS, r"no finite number on \d+ of 100 resamples"),
    ],
)
def test_what_cannot_be_paired_says_why(first, second, why):
    with pytest.raises(ValueError, match=why):
        paired_difference(first, second, 100)
    with pytest.raises(ValueError, match="resamples=0"):
        paired_difference(mean([1, 2]), mean([1, 2]), 0)


def test_how_many_were_left_out_does_not_make_another_metric():
    one, other = (mean([1, 2], f"mean; {k} left out", varies=f"{k} left out") for k in (0, 3))
    assert paired_difference(one, other, 10).value == 0
    with pytest.raises(ValueError, match="defined differently"):
        paired_difference(one, mean([1, 2], "median; 3 left out", varies="3 left out"), 10)


EVERYTHING = {
    "tofu": lambda: tofu_metrics(tofu.all_tasks(), tofu.scores(9), resamples=2),
    "knowundo": lambda: KnowUnDoMetrics().numbers(Saved(knowundo.table(knowundo.TASKS), resamples=2)),
    "knowundo, pooled": lambda: KnowUnDoMetrics("pooled").numbers(Saved(knowundo.table(knowundo.TASKS), resamples=2)),
    "safety": lambda: safety.numbers(),
    "utility": lambda: utility.numbers(utility.all_ten(0.5, (1, 0), (0.2, 0.4)) + [utility.text(0, -3.0, 3, 12, 6)]),
}


@pytest.mark.parametrize("benchmark", EVERYTHING)
def test_every_metric_keeps_what_gives_its_value_again(benchmark):
    found = EVERYTHING[benchmark]()
    assert not {name for name, metric in found.items() if metric.evidence is None}
    for name, metric in found.items():
        assert metric.evidence.statistic(metric.evidence.samples) == approx(metric.value, rel=1e-12), name


def test_safety_pairs_outputs_by_their_question():
    """Question 0 of `normal` is answered by both; the base model's perplexity of question 1 is known for one run alone."""
    rows = [row for row in safety.ROWS if row["task"] == "normal"]
    silent = [rows[0], {**rows[1], "output": "", "nll": None}]
    first, second = (safety.numbers(rows=found)["normal_perplexity"] for found in (rows, silent))
    assert (first.n, second.n) == (2, 1) and second.evidence.labels("items") == [0]
    assert paired_difference(first, second, 20).value == approx(1 - (1 + np.e) / 2)
