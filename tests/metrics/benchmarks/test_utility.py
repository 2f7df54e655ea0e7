"""Accuracies, averages and perplexities by hand."""

from __future__ import annotations

from math import exp, log

import pytest
from pytest import approx

from metrics.benchmarks.utility import AVERAGED, SINGLE, UtilityMetrics, bits_per_byte, perplexity
from utils.items.saved import Saved


def judged(task: str, *accs: float, of: int | None = None, norms: tuple[float, ...] = ()) -> list[dict]:
    known = {"task": task, "of": of or len(accs), "by": f"harness 1.0, task {task}"}
    rows = [{**known, "index": index, "acc": acc} for index, acc in enumerate(accs)]
    return [{**row, "acc_norm": norm} for row, norm in zip(rows, norms, strict=True)] if norms else rows


def text(index: int, loglikelihood: float, words: int, size: int, tokens: int) -> dict:
    counts = {"words": words, "bytes": size, "tokens": tokens, "window": 512}
    return {"task": "wikitext", "index": index, "of": 2, "by": "harness 1.0", "loglikelihood": loglikelihood, **counts}


def numbers(rows: list[dict]) -> dict:
    return UtilityMetrics().numbers(Saved(None, rows, resamples=100))


def test_accuracies_are_means_of_the_verdicts():
    found = numbers(judged("piqa", 1, 0, 1, 1, norms=(0, 0, 1, 0)))
    assert {name: metric.value for name, metric in found.items()} == {"piqa_acc": 0.75, "piqa_acc_norm": 0.25}
    assert found["piqa_acc"].n == 4 and found["piqa_acc"].ci95[0] < 0.75 < found["piqa_acc"].ci95[1]
    assert found["piqa_acc_norm"].definition.endswith("log p per character; harness 1.0, task piqa")


def test_a_part_of_a_task_says_so():
    assert numbers(judged("rte", 1, 0, of=277))["rte_acc"].definition.endswith("the first 2 of 277 documents only")


def test_perplexities_pool_the_texts():
    """exp(-(-6 ln 2 - 2 ln 2) / (3 + 1)) = 2^2; the mean of the texts' own perplexities is not it."""
    rows = [text(0, -6 * log(2), 3, 12, 6), text(1, -2 * log(2), 1, 4, 2)]
    found = numbers(rows)
    assert found["wikitext_word_perplexity"].value == approx(4) and found["wikitext_token_perplexity"].value == approx(2)
    assert found["wikitext_byte_perplexity"].value == approx(2**0.5) and found["wikitext_bits_per_byte"].value == approx(0.5)
    assert all(metric.n == 2 for metric in found.values())
    assert perplexity([-1.0, -5.0], [1, 3]) == approx(exp(1.5)) and bits_per_byte([-3 * log(2)], [6]) == approx(0.5)


def all_ten(verdicts: float, mc1: tuple[float, ...], mc2: tuple[float, ...]) -> list[dict]:
    rows = [row for task in SINGLE for row in judged(task, verdicts, verdicts)]
    return rows + judged("truthfulqa_mc1", *mc1) + judged("truthfulqa_mc2", *mc2)


def test_truthfulqa_is_two_of_ten_or_one_of_nine():
    """(8 x 1 + 0.5 + 0.3) / 10 = 0.88, (8 x 1 + 0.4) / 9 = 0.9333; items do not weigh, tasks do."""
    found = numbers(all_ten(1.0, (1, 0), (0.2, 0.4)))
    assert found["avg_acc_10"].value == approx(0.88) and found["avg_acc_9"].value == approx(8.4 / 9)
    assert found["avg_acc_10"].n == 8 * 2 + 2
    assert "arXiv 2410.11143" in found["avg_acc_9"].definition


def test_averages_are_of_acc_and_not_of_acc_norm():
    rows = [row | {"acc_norm": 0.0} for row in all_ten(1.0, (1, 1), (1, 1))]
    assert numbers(rows)["avg_acc_10"].value == 1.0


def test_a_question_of_truthfulqa_is_drawn_once_for_both_of_its_verdicts():
    """MC1 and MC2 move together: 1 - x and x, drawn together, always average to a half."""
    found = numbers(all_ten(0.5, (1, 0, 1, 0), (0, 1, 0, 1)))
    assert found["avg_acc_9"].ci95 == (0.5, 0.5)


@pytest.mark.parametrize("missing", AVERAGED)
def test_there_is_no_average_of_fewer_tasks(missing):
    rows = [row for row in all_ten(1.0, (1, 0), (0.2, 0.4)) if row["task"] != missing]
    assert not {"avg_acc_9", "avg_acc_10"} & set(numbers(rows))


def test_other_questions_are_not_averaged_and_nothing_is_an_error():
    with pytest.raises(ValueError, match="truthfulqa_mc1 and truthfulqa_mc2 hold different questions"):
        numbers(all_ten(1.0, (1, 0), (0.2,)))
    with pytest.raises(ValueError, match="no row of any task; evaluate again"):
        numbers([])
