"""The metrics of completion by hand: BLEU of a pair, the FQ Gap and its parts, passages as items."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from metrics.benchmarks.completion import TASKS, CompletionMetrics, bleu, fq_gap
from utils.items.saved import Saved

TRUE = ("the quick red fox jumps over dogs", "a cat sat on the mat today")


def scores(tasks: tuple[str, ...] = ("train",), rows: int = 2) -> pd.DataFrame:
    """Answer tokens at p = 1/2 and 1/8 in even rows, at 1/4 in odd ones: exp of the mean log is 1/4 in all."""
    made = [
        {"task": task, "index": index, "role": "answer", "number": 0, "logp": np.log([0.25] if index % 2 else [0.5, 0.125])}
        for task in tasks
        for index in range(rows)
    ]
    return pd.DataFrame(made[::-1])  # tables need not be in order


def said(task: str, *texts: str) -> list[dict]:
    """Completions of two passages, asked for once by each instruction: rows are template-major."""
    return [
        {"task": task, "index": index, "question": "?", "generation": text, "truth": TRUE[index % 2], "passage": index % 2}
        for index, text in enumerate(texts)
    ]


def retained(task: str, *texts: str | None) -> pd.DataFrame:
    return scores((task,), len(texts)).sort_values("index").assign(generation=list(texts))


def values(metrics: dict) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items()}


def test_bleu_of_a_pair_always_counts_four_grams():
    # 6, 4, 2, 1 of its 6, 5, 4, 3 n-grams are in the truth; 6 words for 7: brevity penalty exp(1 - 7/6).
    expected = 100 * math.exp(1 - 7 / 6) * (6 / 6 * 4 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu("the quick red fox over dogs", TRUE[0]) == approx(expected)
    assert bleu(TRUE[0], TRUE[0]) == approx(100)
    # Two words have no 3-grams. The sentence BLEU of sacrebleu leaves those out and gives 100; the corpus BLEU gives 0.
    assert bleu("red fox", "red fox") == 0.0
    assert bleu("", TRUE[0]) == 0.0


def test_bleu_smooths_what_never_matches():
    # 1-grams 2/4; 2-, 3- and 4-grams never match: exponential smoothing counts them as 1/2, 1/4 and 1/8 of one.
    expected = 100 * (2 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** 0.25
    assert bleu("red a dogs b", "x red y dogs") == approx(expected)


def test_gap_by_hand():
    unlearned = [[10.0, 0.5], [20.0, 0.3]]  # means 15 and 0.4
    oracle = [[12.0, 0.2], [20.0, 0.2], [10.0, 0.5]]  # 14 and 0.3
    gap = fq_gap(unlearned, oracle)
    assert (gap.value, gap.bleu, gap.rougeL) == (approx(1.1), approx(1.0), approx(0.1))
    assert fq_gap(unlearned, oracle, "mean_abs").value == approx(0.55)
    back = fq_gap(oracle, unlearned)
    assert (back.value, back.bleu, back.rougeL) == (approx(1.1), approx(-1.0), approx(-0.1))


def test_opposite_differences_do_not_cancel_each_other():
    gap = fq_gap([[10.0, 0.6]], [[11.0, 0.2]])
    assert (gap.bleu, gap.rougeL, gap.value) == (approx(-1.0), approx(0.4), approx(1.4))


def test_a_model_like_the_retained_one_has_no_gap():
    assert fq_gap([[3.0, 0.2], [5.0, 0.4]], [[5.0, 0.4], [3.0, 0.2]]).value == 0.0


def test_metrics_of_one_task():
    # Passage 0 word for word; of passage 1 the words a, cat and mat, in order: recall 3/7.
    metrics = CompletionMetrics().numbers(Saved(scores(), said("train", TRUE[0], "a cat mat"), resamples=100))
    found = values(metrics)
    assert set(found) == {"train_bleu", "train_rougeL_recall", "train_prob"}
    assert found["train_bleu"] == approx((100 + bleu("a cat mat", TRUE[1])) / 2)
    assert found["train_rougeL_recall"] == approx((1 + 3 / 7) / 2)
    assert found["train_prob"] == approx(0.25)
    assert {metric.n for metric in metrics.values()} == {2}


def test_rouge_is_recall_of_stems():
    metrics = CompletionMetrics().numbers(Saved(scores(rows=1), said("train", "foxes jumped, and more"), resamples=100))
    assert metrics["train_rougeL_recall"].value == approx(2 / 7)


def test_rows_of_one_passage_are_one_item():
    # Passage 0 is right with both instructions, passage 1 with neither: two items at 100 and 0, not four.
    rows = said("train", TRUE[0], "no", TRUE[0], "no")
    metrics = CompletionMetrics().numbers(Saved(scores(rows=4), rows, resamples=400))
    assert metrics["train_rougeL_recall"].n == 2
    assert metrics["train_rougeL_recall"].value == approx(0.5) and metrics["train_rougeL_recall"].ci95 == (0.0, 1.0)
    assert metrics["train_rougeL_recall"].evidence.items == {"train": [0, 1]}
    assert "4 rows" in metrics["train_bleu"].definition


def test_gap_from_tables_with_its_parts():
    own, theirs = (TRUE[0], "no"), ("the quick", "a cat sat on the mat today")
    metrics = CompletionMetrics().numbers(Saved(scores(), said("train", *own), retained("train", *theirs), resamples=200))
    found = values(metrics)
    # BLEU 100 and 0 against that of two words and 100; ROUGE-L recall 1 and 0 against 2/7 and 1.
    level = bleu("no", TRUE[1])
    bleus, rouges = (100 + level) / 2 - (bleu("the quick", TRUE[0]) + 100) / 2, 1 / 2 - (2 / 7 + 1) / 2
    assert found["train_bleu_difference"] == approx(bleus) and found["train_bleu_gap"] == approx(abs(bleus))
    assert found["train_rougeL_difference"] == approx(rouges) and found["train_rougeL_gap"] == approx(abs(rouges))
    assert found["train_fq_gap"] == approx(abs(bleus) + abs(rouges))
    halved = CompletionMetrics("mean_abs").numbers(
        Saved(scores(), said("train", *own), retained("train", *theirs), resamples=200)
    )
    assert halved["train_fq_gap"].value == approx(found["train_fq_gap"] / 2)
    assert "sum of" in metrics["train_fq_gap"].definition and "mean of" in halved["train_fq_gap"].definition


def test_passages_stay_paired_when_they_are_resampled():
    """Both models say the same, different things of different passages: the gap is 0 on every resample."""
    texts = (TRUE[0], "no")
    metric = CompletionMetrics().numbers(Saved(scores(), said("train", *texts), retained("train", *texts), resamples=200))[
        "train_fq_gap"
    ]
    assert metric.value == 0.0 and metric.ci95 == (0.0, 0.0)


def test_both_are_compared_with_the_same_text():
    """What was cut from the model's truth was cut for the retained model too, whatever its own evaluation says."""
    rows = [{**row, "truth": "the quick"} for row in said("train", "the quick")]
    oracle = retained("train", "the quick").assign(truth=TRUE[0])
    metrics = CompletionMetrics().numbers(Saved(scores(rows=1), rows, oracle, resamples=100))
    assert metrics["train_fq_gap"].value == 0.0


def test_tasks_and_names():
    rows = [row for task in TASKS for row in said(task, *TRUE)]
    oracle = pd.concat([retained(task, *TRUE) for task in TASKS])
    found = set(CompletionMetrics().numbers(Saved(scores(TASKS), rows, oracle, resamples=100)))
    parts = {f"{task}_{part}" for task in TASKS for part in ("bleu", "rougeL_recall", "prob")}
    gaps = ("fq_gap", "bleu_difference", "bleu_gap", "rougeL_difference", "rougeL_gap")
    assert found == parts | {f"{task}_{name}" for task in ("train", "test") for name in gaps}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: CompletionMetrics("sum"), "benchmark.metrics.combination=sum: write one of sum_abs, mean_abs"),
        (lambda: fq_gap([[1, 1]], [[1, 1]], "max"), "combination=max: write one of sum_abs, mean_abs"),
        (lambda: fq_gap([[1, 1]], []), "retained: there are no items"),
        (lambda: fq_gap([[1, math.nan]], [[1, 1]]), "unlearned: item 0 is NaN"),
        (lambda: fq_gap([1.0, 2.0], [[1, 1]]), r"unlearned: its shape is \(2,\), but \(n, 2\)"),
        (lambda: from_rows(said("train", "a")), "generations.jsonl has no answer to row 2 of task train"),
        (
            lambda: from_rows(said("train", "a", "b"), scores()),
            "holds no completion of row 1 of task train by the retained model",
        ),
        (lambda: from_rows(said("train", "a", "b"), retained("train", "a", None)), "no completion of row 2 of task train"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def from_rows(rows: list[dict], oracle: pd.DataFrame | None = None) -> dict:
    return CompletionMetrics().numbers(Saved(scores(), rows, oracle, resamples=100))
