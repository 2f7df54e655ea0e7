"""What a model can still do: accuracies of the zero-shot tasks, their averages, and WikiText perplexities.

    <task>_acc, <task>_acc_norm                       as lm-evaluation-harness judged each document
    avg_acc_10, avg_acc_9                             FLAT's average, and the same with TruthfulQA as one task
    wikitext_word_, _byte_, _token_perplexity         exp(-log-likelihood of all texts / their words, bytes, tokens)
    wikitext_bits_per_byte                            -log-likelihood of all texts / (ln 2 x their bytes)

Averages are of acc, never of acc_norm. Source: FLAT (arXiv 2410.11143), released code: the unweighted mean over all that was
asked, which are ten numbers (it rounds to 4 decimals, we do not); the paper speaks of nine tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, log

import numpy as np

from metrics.tables import by_question, mean_over
from utils.items.metric import Metric, Samples, measured
from utils.items.saved import Metrics, Row, Saved

WIKITEXT = "wikitext"
TRUTHFULQA = ("truthfulqa_mc1", "truthfulqa_mc2")
SINGLE = ("boolq", "rte", "hellaswag", "winogrande", "arc_challenge", "arc_easy", "openbookqa", "piqa")
AVERAGED = (*SINGLE, *TRUTHFULQA)
FLAT = "FLAT (arXiv 2410.11143)"

VERDICTS = {
    "acc": "share of questions whose right choice has the highest sum of log p",
    "acc_norm": "share of questions whose right choice has the highest sum of log p per character",
}
MASS = "mean share of probability that falls to true answers"  # truthfulqa_mc2, the one task whose acc is no share of questions


def perplexity(loglikelihoods: Sequence[float], counts: Sequence[int]) -> float:
    """exp(-sum of log-likelihoods in nats / sum of counts), (n,), (n,) -> (0, inf): long texts weigh more than short ones."""
    return exp(-sum(loglikelihoods) / sum(counts))


def bits_per_byte(loglikelihoods: Sequence[float], counts: Sequence[int]) -> float:
    """-sum of log-likelihoods in nats / sum of bytes, in bits, (n,), (n,) -> float."""
    return -sum(loglikelihoods) / sum(counts) / log(2)


@dataclass(frozen=True)
class UtilityMetrics(Metrics):
    """From the rows that the harness gave (data/benchmarks/harness.py)."""

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """Every number that the rows allow. Raises ValueError if there are none."""
        tasks = {task: saved.rows(task) for task in dict.fromkeys(row["task"] for row in saved.generations)}
        if not tasks:
            raise ValueError("generations.jsonl holds no row of any task; evaluate again")
        metrics: dict[str, Metric] = {}
        for task, rows in tasks.items():
            metrics |= perplexities(rows, saved.resamples) if task == WIKITEXT else accuracies(task, rows, saved.resamples)
        return {**metrics, **averages(tasks, saved.resamples)}


def accuracies(task: str, rows: Sequence[Row], resamples: int = 1000) -> dict[str, Metric]:
    """`<task>_acc`, and `<task>_acc_norm` where the task has it: means of the harness's verdicts on the documents."""
    metrics = {}
    for name, definition in VERDICTS.items():
        if name in rows[0]:
            what = MASS if task == TRUTHFULQA[1] else definition
            values = by_question((row[name] for row in rows), rows)
            metrics[f"{task}_{name}"] = mean_over(values, f"{what}; {_source(rows)}", resamples, task)
    return metrics


def perplexities(rows: Sequence[Row], resamples: int = 1000) -> dict[str, Metric]:
    """The four numbers of WikiText; documents are what the bootstrap draws."""
    about = (
        f"of the detokenised texts, each token given what precedes it in its window of at most {rows[0]['window']} tokens, the "
        f"first given BOS (EOS without one); {_source(rows)}"
    )
    kinds: dict[str, tuple[Callable[[Sequence[float], Sequence[int]], float], str, str]] = {
        "word_perplexity": (perplexity, "words", "exp(-log-likelihood / words, as WikiText separates them); FLAT's PPL"),
        "byte_perplexity": (perplexity, "bytes", "exp(-log-likelihood / bytes, before detokenisation)"),
        "bits_per_byte": (bits_per_byte, "bytes", "-log-likelihood / (ln 2 x bytes, before detokenisation)"),
        "token_perplexity": (perplexity, "tokens", "exp(-log-likelihood / tokens), ours: says nothing across tokenizers"),
    }
    metrics = {}
    for name, (measure, unit, definition) in kinds.items():
        metrics[f"{WIKITEXT}_{name}"] = measured(
            {"texts": np.array([(row["loglikelihood"], row[unit]) for row in rows])},
            f"{definition}; {about}",
            lambda samples, of=measure: of(samples["texts"][:, 0], samples["texts"][:, 1]),
            items={"texts": [row["index"] for row in rows]},
            resamples=resamples,
        )
    return metrics


def averages(tasks: Mapping[str, Sequence[Row]], resamples: int = 1000) -> dict[str, Metric]:
    """`avg_acc_10` and `avg_acc_9`, if all their tasks are there. Raises ValueError if MC1 and MC2 were asked other questions."""
    if not set(AVERAGED) <= tasks.keys():
        return {}
    first, second = (sorted(tasks[name], key=lambda row: row["index"]) for name in TRUTHFULQA)
    if [row["index"] for row in first] != [row["index"] for row in second]:
        raise ValueError("truthfulqa_mc1 and truthfulqa_mc2 hold different questions; evaluate again")
    samples = {name: np.array([row["acc"] for row in tasks[name]]) for name in SINGLE}
    # A question of TruthfulQA has two verdicts and is drawn once for both.
    samples["truthfulqa"] = np.array([(one["acc"], other["acc"]) for one, other in zip(first, second, strict=True)])
    items = {name: [row["index"] for row in tasks[name]] for name in SINGLE} | {"truthfulqa": [row["index"] for row in first]}
    limits = (
        "" if all(len(tasks[name]) == tasks[name][0]["of"] for name in AVERAGED) else "; the first documents of each task only"
    )
    eight = "unweighted mean of the acc of " + ", ".join(SINGLE)
    ten = f"{eight}, truthfulqa_mc1 and truthfulqa_mc2{limits}; {FLAT}, released code, which rounds to 4 decimals"
    nine = f"{eight}, and of TruthfulQA as the mean of its MC1 and MC2{limits}; {FLAT} names nine tasks"

    def average(samples: Samples, axis: int | None) -> float:
        return float(np.mean([*(samples[name].mean() for name in SINGLE), *np.ravel(samples["truthfulqa"].mean(axis=axis))]))

    return {
        f"avg_acc_{count}": measured(samples, definition, partial(average, axis=axis), items=items, resamples=resamples)
        for count, definition, axis in ((10, ten, 0), (9, nine, None))
    }


def _source(rows: Sequence[Row]) -> str:
    """Who evaluated how much of the task."""
    by, all_rows = rows[0]["by"], rows[0]["of"]
    return by if len(rows) == all_rows else f"{by}, the first {len(rows)} of {all_rows} documents only"
