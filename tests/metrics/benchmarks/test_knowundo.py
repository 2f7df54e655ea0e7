"""The metrics of KnowUnDo by hand: macro and pooled, prompted or not, ROUGE-L of what was forced and what was generated."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from metrics.benchmarks.knowundo import TASKS, KnowUnDoMetrics, ScopeScores, bounded_exp, knowundo_metrics, perplexity
from utils.files import write_json
from utils.items.saved import Saved

# Gold tokens at p = (0.5, 0.25) with hits (1, 0) and p = (0.9, 0.8, 0.1) with hits (1, 1, 0).
PROBABILITIES, HITS = ((0.5, 0.25), (0.9, 0.8, 0.1)), ((1, 0), (1, 1, 0))
SAID = ("the red cat", "a dog")
WANTED = ("the red fox", "a dog ran away")


def scope(level: float | None = None) -> ScopeScores:
    """The two items above; with `level`, every token at so many nats."""
    tokens = np.array([2, 3])
    logp = np.array([np.log(p).sum() for p in PROBABILITIES]) if level is None else -level * tokens
    return ScopeScores(tokens, logp, np.array([1, 2]), np.array([2 / 3, 2 / 3]))


def table(tasks: tuple[str, ...] = ("unlearn",)) -> pd.DataFrame:
    rows = [
        {
            "task": task,
            "index": index,
            "role": "answer",
            "number": 0,
            "tokens": len(p),
            "logp": np.log(p).astype(np.float32),
            "hit": np.array(hits, dtype=bool),
            "argmax": np.arange(len(p), dtype=np.int32),
            "said": said,
            "wanted": wanted,
        }
        for task in tasks
        for index, (p, hits, said, wanted) in enumerate(zip(PROBABILITIES, HITS, SAID, WANTED, strict=True))
    ]
    return pd.DataFrame(rows[::-1])  # tables need not be in order


def generations(task: str, *texts: str) -> list[dict]:
    pairs = zip(texts, WANTED, strict=True)
    return [{"task": task, "index": i, "question": "?", "generation": g, "truth": r} for i, (g, r) in enumerate(pairs)]


def values(metrics: dict) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items()}


def test_macro_is_the_mean_over_items():
    # b = (ln 0.5 + ln 0.25) / 2 and (ln 0.9 + ln 0.8 + ln 0.1) / 3; acc = 1/2 and 2/3
    found = values(knowundo_metrics({"unlearn": scope(), "retention": scope()}, resamples=2))
    assert found["perplexity_unlearn"] == found["perplexity_retention"] == approx(2.60745655294932, rel=1e-14)
    assert found["retention_success"] == approx(58.33333333333333, rel=1e-15)
    assert found["unlearn_success"] == approx(41.66666666666667, rel=1e-15)
    assert found["avg_success"] == approx(50.0, rel=1e-15)


def test_pooled_is_the_mean_over_tokens():
    found = values(knowundo_metrics({"unlearn": scope(), "retention": scope()}, "pooled", resamples=2))
    assert found["perplexity_retention"] == approx(2.5653787802420256, rel=1e-14)
    assert found["retention_success"] == approx(60.0) and found["unlearn_success"] == approx(40.0)


def test_the_same_from_saved_tables():
    found = values(KnowUnDoMetrics().numbers(Saved(table(TASKS), resamples=2)))
    for suffix in ("", "_prompted"):
        assert found[f"perplexity_unlearn{suffix}"] == approx(2.60745655294932, rel=1e-7)  # saved as float32
        assert found[f"unlearn_success{suffix}"] == approx(41.66666666666667)
        assert found[f"retention_success{suffix}"] == approx(58.33333333333333)
    pooled = values(KnowUnDoMetrics("pooled").numbers(Saved(table(), resamples=2)))
    assert pooled["unlearn_success"] == approx(40.0)


def test_rouge_is_an_f_measure_and_forced_and_generated_text_have_their_own_names():
    # Forced: 2 of 3 words both ways, F 2/3; 2 of 2 and 2 of 4, F 2/3. Generated: 3 of 3, F 1; 1 of 1 and 1 of 4, F 2/5.
    found = values(KnowUnDoMetrics().numbers(Saved(table(), generations("unlearn", "the red fox", "dog"), resamples=2)))
    assert found["rougeL_teacher_forced_unlearn"] == approx(100 * 2 / 3)
    assert found["rougeL_generated_unlearn"] == approx(70.0)
    without = KnowUnDoMetrics().numbers(Saved(table(), generations("retention", "a", "b"), resamples=2))
    assert "rougeL_generated_unlearn" not in without


def test_rouge_does_not_stem():
    rows = table().assign(said="running dogs", wanted="run dog")
    assert values(KnowUnDoMetrics().numbers(Saved(rows, resamples=2)))["rougeL_teacher_forced_unlearn"] == 0.0


def test_names_counts_and_definitions():
    tasks = table(TASKS)
    texts = [row for task in TASKS for row in generations(task, "a", "b")]
    metrics = KnowUnDoMetrics().numbers(Saved(tasks, texts, resamples=20))
    scopes = ("unlearn", "retention")
    kinds = ("perplexity", "rougeL_teacher_forced", "rougeL_generated")
    names = {f"{scope}_success" for scope in scopes} | {"avg_success"} | {f"{kind}_{scope}" for kind in kinds for scope in scopes}
    assert set(metrics) == names | {f"{name}_prompted" for name in names}
    assert {metrics[name].n for name in metrics if "avg" not in name} == {2} and metrics["avg_success"].n == 4
    for name, metric in metrics.items():
        assert "arXiv 2407.01920" in metric.definition
        assert ("with the safety prompt" in metric.definition) == name.endswith("_prompted")
        low, high = metric.ci95
        assert low <= metric.value <= high or metric.value == approx(low) or metric.value == approx(high), name
    assert "not the model's most likely" in metrics["unlearn_success"].definition
    assert "average=macro" in metrics["perplexity_unlearn"].definition
    assert "average=pooled" in knowundo_metrics({"unlearn": scope()}, "pooled", 2)["unlearn_success"].definition


def test_what_cannot_be_computed_is_left_out():
    found = set(knowundo_metrics({"unlearn": scope(), "retention_prompted": scope()}, resamples=2))
    assert found == {
        "unlearn_success", "perplexity_unlearn", "rougeL_teacher_forced_unlearn",
        "retention_success_prompted", "perplexity_retention_prompted", "rougeL_teacher_forced_retention_prompted",
    }  # fmt: skip


def test_both_scopes_are_resampled_for_the_average():
    certain = ScopeScores([1, 1], [-1.0, -1.0], [0, 0], [0.0, 0.0])  # nothing to resample: unlearn success 100
    split = ScopeScores([1, 1], [-1.0, -1.0], [0, 1], [0.0, 0.0])  # retention success 0, 50 or 100
    metrics = knowundo_metrics({"unlearn": certain, "retention": split}, resamples=400)
    assert metrics["unlearn_success"].ci95 == (100.0, 100.0)
    assert metrics["avg_success"].value == 75.0 and metrics["avg_success"].ci95 == (50.0, 100.0)
    metrics = knowundo_metrics({"unlearn": split, "retention": certain}, resamples=400)
    assert metrics["avg_success"].value == 25.0 and metrics["avg_success"].ci95 == (0.0, 50.0)


@pytest.mark.parametrize("average", ["macro", "pooled"])
def test_intervals_bracket_their_values_and_repeat(average):
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, 20, size=30)
    drawn = ScopeScores(tokens, -tokens * rng.random(30), rng.integers(0, tokens), rng.random(30))
    once, again = (knowundo_metrics({"unlearn": drawn, "retention": drawn}, average, 200) for _ in range(2))
    assert once == again
    assert all(metric.ci95[0] < metric.value < metric.ci95[1] for metric in once.values())


def test_the_interval_of_perplexity_is_that_of_the_mean_loss():
    two = ScopeScores([1, 1], [-1.0, -3.0], [0, 0], [0.0, 0.0])
    metric = knowundo_metrics({"unlearn": two}, resamples=400)["perplexity_unlearn"]
    assert metric.value == approx(math.exp(2)) and metric.ci95 == approx((math.exp(1), math.exp(3)))


@pytest.mark.parametrize("average", ["macro", "pooled"])
def test_a_collapsed_model_has_numbers_that_json_can_hold(tmp_path, recwarn, average):
    metrics = knowundo_metrics({"unlearn": scope(800.0), "retention": scope(100.0)}, average, resamples=20)
    assert metrics["perplexity_unlearn"].value == sys.float_info.max
    assert metrics["perplexity_unlearn"].ci95 == (sys.float_info.max, sys.float_info.max)
    assert metrics["perplexity_retention"].value == approx(math.exp(100))
    write_json(tmp_path / "metrics.json", {name: metric.to_json() for name, metric in metrics.items()})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    saved = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert saved["perplexity_unlearn"]["value"] == sys.float_info.max
    assert not recwarn.list


def test_only_what_no_float_holds_is_bounded():
    assert bounded_exp(709.0) == math.exp(709.0) < bounded_exp(710.0) == bounded_exp(1e9) == sys.float_info.max
    assert perplexity(scope(709.0)) == approx(math.exp(709.0))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: KnowUnDoMetrics("mean"), "benchmark.metrics.average=mean: write one of macro, pooled"),
        (lambda: knowundo_metrics({"unlearn": scope()}, "mean"), "benchmark.metrics.average=mean"),
        (lambda: knowundo_metrics({"forget": scope()}), "task forget: KnowUnDo has unlearn, retention, unlearn_prompted"),
        (lambda: from_table(table().drop(columns="said")), "no column said: evaluate the model again"),
        (lambda: from_table(table(), generations("unlearn", "a", "b")[:1]), "no answer to row 2 of task unlearn"),
        (lambda: ScopeScores([1, 2], [1, 2], [1], [0, 0]), r"hits: its shape is \(1,\), but \(2,\)"),
        (lambda: ScopeScores([1, 2], [1, np.nan], [1, 1], [0, 0]), "logp: item 1 is NaN; score this item again"),
        (lambda: ScopeScores([1, 2], [1, -np.inf], [1, 1], [0, 0]), "logp: item 1 is infinite; score this item again"),
        (lambda: ScopeScores([1, 0], [1, 1], [1, 0], [0, 0]), "tokens: item 1 has no answer token"),
        (lambda: ScopeScores([], [], [], []), "tokens: there are no items"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def from_table(scores: pd.DataFrame, texts: list[dict] | tuple = ()) -> dict:
    return KnowUnDoMetrics().numbers(Saved(scores, texts, resamples=2))
