from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from pytest import approx
from scipy import stats

from metrics.benchmarks.tofu import (
    PARTS,
    TASKS,
    UTILITY_PARTS,
    TaskScores,
    choice_probability,
    forget_quality,
    harmonic_mean,
    model_utility,
    probability,
    tofu_metrics,
    truth_ratio,
    truth_ratio_forget,
    truth_ratio_probability,
    truth_ratio_retain,
)
from metrics.benchmarks.tofu_logs import read_tofu_log

GOLDEN = Path(os.environ.get("LETHE_SHARED", "")) / "golden"
needs_golden = pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="LETHE_SHARED is not set: no golden logs")
EPS = 1e-10  # of open-unlearning

PARAPHRASED = [1.0, 2.0, 0.5]
PERTURBED = [[2, 3, 1, 2, 2], [1, 1.5, 2, 1, 2], [0.5, 0.5, 0.5, 0.5, 0.5]]


def scores(n: int = 4, wrong: int = 5, level: float = 1.0) -> TaskScores:
    rng = np.random.default_rng(n)
    right = level * (1 + rng.random(n))
    return TaskScores(right, right + 0.1, level * (2 + rng.random((n, wrong))), rng.random(n))


def all_tasks(level: float = 1.0) -> dict[str, TaskScores]:
    sizes = {"retain": (6, 5), "real_authors": (5, 3), "world_facts": (4, 3), "forget": (7, 5)}
    return {task: scores(n, wrong, level) for task, (n, wrong) in sizes.items()}


def test_probability_is_the_geometric_mean_of_token_probabilities():
    # tokens at p = 0.5 and 0.125: average loss ln 4, so 1/4
    assert probability([(np.log(2) + np.log(8)) / 2]) == approx([0.25])


def test_truth_ratio_geometric():
    # mean losses of the wrong answers 2, 1.5, 0.5: R = e^-1, e^0.5, e^0
    assert truth_ratio(PARAPHRASED, PERTURBED) == approx(np.exp([-1.0, 0.5, 0.0]), rel=1e-12)


def test_truth_ratio_arithmetic():
    assert truth_ratio(PARAPHRASED, PERTURBED, "arithmetic") == approx([0.44779472, 1.81705699, 1.0], abs=1e-8)


def test_truth_ratio_with_the_eps_of_open_unlearning():
    ratio = truth_ratio(PARAPHRASED, PERTURBED, eps=EPS)
    assert ratio == approx([0.36787944, 1.64872127, 0.99999999984], abs=5e-9)
    assert 1 - ratio[2] == approx(EPS / (np.exp(-0.5) + EPS), rel=1e-5)
    assert truth_ratio_forget(ratio, EPS).mean() == approx(0.65813670, abs=5e-9)
    assert truth_ratio_retain(ratio).mean() == approx(0.21070685, abs=5e-9)
    items = truth_ratio_probability(PARAPHRASED, PERTURBED, eps=EPS)
    assert items == approx([0.73105858, 0.37754067, 0.5], abs=5e-9)
    assert items.mean() == approx(0.53619975, abs=5e-9)


def test_truth_ratio_acts_per_item_before_the_mean():
    ratio = [0.5, 4.0]
    assert truth_ratio_retain(ratio).tolist() == [0.5, 0.0]
    assert truth_ratio_forget(ratio).tolist() == [0.5, 0.25]
    assert truth_ratio_forget(ratio, eps=1.0).tolist() == [0.5, 0.2]


def test_multiple_choice():
    correct, wrong = np.array([0.5, 0.1]), np.array([[0.2, 0.2, 0.1], [0.3, 0.4, 0.2]])
    assert choice_probability(-np.log(correct), -np.log(wrong)) == approx([0.5, 0.1], rel=1e-12)
    # a denominator of 1 grows by eps
    small = choice_probability(-np.log(correct), -np.log(wrong), EPS)
    assert correct - small == approx(correct * EPS, rel=1e-4)


def test_ks_by_hand():
    test = forget_quality([0.1, 0.2, 0.3, 0.4, 0.5], [0.25, 0.35, 0.45, 0.6, 0.7, 0.8])
    assert test == approx((0.5, 0.35714286), abs=5e-9)


@pytest.mark.parametrize(("values", "mean"), [((0.5, 0.25), 1 / 3), ((0.5, 0.0), 0.0), ((0.7,), 0.7), ((1e-320, 1), 0)])
def test_harmonic_mean(values, mean):
    assert harmonic_mean(values) == approx(mean, abs=1e-15)


def test_harmonic_mean_keeps_nan_even_beside_zero():
    assert np.isnan(harmonic_mean([0.5, 0.0, float("nan")]))


@pytest.mark.parametrize(("n", "p"), [(40, 1.8603e-23), (200, 1.9426e-119), (300, 1.4803e-179), (400, 1.0636e-239)])
def test_floor_of_forget_quality_when_the_samples_are_apart(n, p):
    assert forget_quality(np.arange(n), np.arange(n) + n) == approx((1.0, p), rel=5e-5)


def test_forget_quality_does_not_care_about_the_direction_of_the_ratio():
    rng = np.random.default_rng(0)
    first, second = np.exp(rng.normal(size=60)), np.exp(rng.normal(0.4, 1, size=45))
    assert forget_quality(1 / first, 1 / second) == approx(forget_quality(first, second), rel=1e-9)


def test_published_model_utility():
    # Llama-2-7b after one epoch of gradient ascent, leaderboard of the authors
    values = [
        0.8210499032114303, 0.6967473664683093, 0.4295557937069344,
        0.505168359434624, 0.943, 0.6591336231061837,
        0.478685379756773, 0.9216524216524216, 0.6085091204510102,
    ]  # fmt: skip
    assert model_utility(dict(zip(UTILITY_PARTS, values, strict=True))) == approx(0.6269273964348965, rel=1e-14)


@pytest.mark.parametrize("average", ["geometric", "arithmetic"])
@pytest.mark.parametrize("eps", [0.0, EPS])
def test_huge_losses_give_limits_and_no_warning(average, eps, recwarn):
    # rows: everything at 900 nats; only the right answer lost; only the wrong answers lost
    right, wrong = [900.0, 2000.0, 0.1], [[900.0] * 3, [0.1] * 3, [2000.0] * 3]
    ratio = truth_ratio(right, wrong, average, eps)
    undecided = 1.0 if eps == 0 else 0.0  # e^-900 / (e^-900 + 1e-10) is 0
    assert ratio[0] == approx(undecided)
    assert ratio[1] == np.inf if eps == 0 else ratio[1] == approx(np.exp(-0.1) / EPS)
    assert ratio[2] == 0.0
    assert truth_ratio_forget(ratio, eps) == approx([undecided, 0.0, 0.0], abs=2e-10)
    assert truth_ratio_retain(ratio) == approx([1 - undecided, 0.0, 1.0])
    assert truth_ratio_probability(right, wrong, average, eps) == approx([undecided / 2, 0.0, 1.0])
    assert choice_probability(right, wrong, eps) == approx([undecided / 4, 0.0, 1.0])
    assert forget_quality(ratio, ratio) == (0.0, 1.0)
    assert not recwarn.list


def test_collapsed_model_gets_a_full_set_of_numbers(recwarn):
    dead = all_tasks(level=500.0)
    metrics = tofu_metrics(dead, scores(7, 5), resamples=20)
    assert all(np.isfinite([m.value, *m.ci95]).all() for m in metrics.values())
    assert metrics["retain_prob"].value < 1e-200
    assert metrics["model_utility"].value == approx(0.0, abs=1e-190)
    assert not recwarn.list


def test_names_counts_and_definitions():
    metrics = tofu_metrics(all_tasks(), scores(9, 5), resamples=20)
    means = [f"{task}_{part}" for task in TASKS for part in PARTS]
    assert list(metrics) == [*means, "model_utility", "forget_quality", "ks_statistic"]
    assert [metrics[name].n for name in means] == [6] * 3 + [5] * 3 + [4] * 3 + [7] * 3
    assert (metrics["model_utility"].n, metrics["forget_quality"].n) == (15, 7)
    assert all("arXiv 2401.06121" in m.definition for m in metrics.values())
    assert "average=geometric, compat=none" in metrics["retain_truth_ratio"].definition
    assert "average" not in metrics["retain_rougeL_recall"].definition  # a switch that changes nothing is not named
    assert "min(R, 1/R)" in metrics["forget_truth_ratio"].definition
    assert "sum of p(wrong answers)" in metrics["world_facts_prob"].definition
    assert "7 items against 9" in metrics["forget_quality"].definition


def test_means_lie_in_their_intervals_which_repeat():
    metrics = tofu_metrics(all_tasks(), scores(9, 5), resamples=200)
    for name in [*UTILITY_PARTS, "model_utility"]:
        low, high = metrics[name].ci95
        assert low < metrics[name].value < high, name
    assert tofu_metrics(all_tasks(), scores(9, 5), resamples=200) == metrics


@pytest.mark.parametrize(
    ("left_out", "retained", "absent"),
    [
        ("retain", True, {"retain", "model_utility"}),
        ("world_facts", True, {"world_facts", "model_utility"}),
        ("forget", True, {"forget", "forget_quality", "ks_statistic"}),
        (None, False, {"forget_quality", "ks_statistic"}),
    ],
)
def test_what_cannot_be_computed_is_left_out(left_out, retained, absent):
    everything = set(tofu_metrics(all_tasks(), scores(), resamples=2))
    tasks = {task: table for task, table in all_tasks().items() if task != left_out}
    found = set(tofu_metrics(tasks, scores() if retained else None, resamples=2))
    gone = {name for name in everything if name in absent or name.rsplit("_", 1)[0] in absent}
    gone |= {f"{left_out}_{part}" for part in PARTS if left_out}
    assert found == everything - gone


def test_one_item_per_task_has_a_degenerate_interval():
    metrics = tofu_metrics({task: scores(1, 3) for task in TASKS}, scores(1, 3))
    assert all(m.ci95 == (m.value, m.value) for m in metrics.values())


@pytest.mark.parametrize(("compat", "eps"), [("none", 0.0), ("open_unlearning", EPS)])
def test_eps_enters_where_probabilities_are_as_small_as_it(compat, eps):
    p = np.exp(-23.0)  # 1.03e-10; the paraphrase is e times as likely as the answer and the wrong answers
    table = TaskScores([23.0], [22.0], [[23.0] * 3], [1.0])
    metrics = tofu_metrics({"real_authors": table}, None, compat=compat)
    assert metrics["real_authors_prob"].value == approx(p / (4 * p + eps), rel=1e-12)
    assert metrics["real_authors_truth_ratio"].value == approx(1 - p / (np.e * p + eps), rel=1e-12)


def test_compat_tofu_original_equals_none():
    tasks = all_tasks()
    none, original = (tofu_metrics(tasks, scores(), compat=c, resamples=2) for c in ("none", "tofu_original"))
    assert {k: m.value for k, m in none.items()} == {k: m.value for k, m in original.items()}
    assert "compat=tofu_original" in original["forget_quality"].definition


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: forget_quality([], [1.0]), "unlearned model: there are no items"),
        (lambda: forget_quality([1.0], []), "retain model: there are no items"),
        (lambda: forget_quality([1.0], [1.0, float("nan")]), "retain model: item 1 is NaN"),
        (lambda: truth_ratio(PARAPHRASED, PERTURBED, "median"), "average=median"),
        (lambda: truth_ratio(PARAPHRASED, PERTURBED[:2]), r"shapes \(3,\) and \(2, 5\)"),
        (lambda: choice_probability(PARAPHRASED, PARAPHRASED), r"shapes \(3,\) and \(3,\)"),
        (lambda: harmonic_mean([]), "one or more"),
        (lambda: harmonic_mean([0.5, -0.1]), "none of them negative"),
        (lambda: model_utility({"retain_prob": 0.5}), "retain_rougeL_recall, .* missing"),
        (lambda: tofu_metrics(all_tasks(), None, compat="ou"), "compat=ou"),
        (lambda: tofu_metrics(all_tasks(), None, average="mean"), "average=mean"),
        (lambda: tofu_metrics({"forget10": scores()}, None), "task forget10: TOFU has retain"),
        (lambda: TaskScores([1, 2], [1, 2], [[1], [2]], [1.0]), r"rougeL_recall: its shape is \(1,\)"),
        (lambda: TaskScores([1, 2], [1, 2], [1, 2], [1, 1]), r"perturbed: its shape is \(2,\)"),
        (lambda: TaskScores([1, 2], [1, np.nan], [[1], [2]], [1, 1]), "paraphrased: item 1 is NaN"),
        (lambda: TaskScores([1, 2], [1, 2], [[1], [np.inf]], [1, 1]), "perturbed: item 1 is infinite"),
        (lambda: TaskScores([], [], [], []), "gt: there are no items"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


read_log = lru_cache(maxsize=4)(read_tofu_log)
CASES = [
    *(f"full__vs__{name}" for name in ("retain90", "retain95", "retain99")),
    *(f"{name}__vs__{name}" for name in ("retain90", "retain95", "retain99")),
    *("retain95__vs__retain90", "retain90__vs__retain95", "retain99__vs__retain90", "retain90__vs__full"),
]


@lru_cache(maxsize=1)
def golden() -> dict[str, dict]:
    content = json.loads((GOLDEN / "tofu_aggregate.json").read_text())
    cases = {case["id"].removeprefix("llama2-7b_wd0.01__"): case for case in content["cases"]}
    assert list(cases) == CASES
    return cases


def compare(metrics: dict[str, float], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        close = {"forget_quality": approx(value, rel=1e-6), "ks_statistic": approx(value, abs=1e-12)}
        assert metrics[name] == close.get(name, approx(value, rel=1e-9, abs=0)), name


def values(case: dict, average: str = "geometric", compat: str = "none") -> dict[str, float]:
    tasks, retained = read_log(GOLDEN / case["unlearned_log"]), read_log(GOLDEN / case["retain_log"])["forget"]
    return {name: metric.value for name, metric in tofu_metrics(tasks, retained, average, compat, resamples=2).items()}


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_golden_authors_script(name):
    found = values(golden()[name])
    assert set(found) == set(golden()[name]["expected"])
    compare(found, golden()[name]["expected"])


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_golden_authors_second_implementation(name):
    # it lists only what its arithmetic average changes; forget quality is not among these
    case = golden()[name]
    compare(values(case, average="arithmetic"), case["expected"] | case["expected_utils_variant"])


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_golden_open_unlearning(name):
    case = golden()[name]
    found = values(case, compat="open_unlearning")
    for task, table in read_log(GOLDEN / case["unlearned_log"]).items():
        items = truth_ratio_probability(table.paraphrased, table.perturbed, eps=EPS)
        found[f"{task}_truth_ratio_prob_mean"] = items.mean()
    compare(found, case["expected_open_unlearning"])


@needs_golden
def test_exact_and_asymptotic_pvalue_differ_in_the_tail():
    case = golden()["full__vs__retain90"]
    tables = [read_log(GOLDEN / case[key])["forget"] for key in ("unlearned_log", "retain_log")]
    ratios = [truth_ratio(table.paraphrased, table.perturbed) for table in tables]
    assert forget_quality(*ratios) == approx((0.396667, 1.8341e-21), rel=5e-5)
    assert stats.ks_2samp(*ratios, method="asymp").pvalue == approx(8.497e-22, rel=5e-5)
