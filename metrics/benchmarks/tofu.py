"""The metrics of TOFU: probability, ROUGE, truth ratio, model utility, forget quality.

Everything here is a function of saved scores: average token losses in nats (sum of the token losses of an answer, the
end token included, over their number) and ROUGE recalls. Ratios are formed as differences of losses, so a model
pushed to losses of hundreds of nats still gives numbers: 0 or infinity where that is the limit, never 0/0.

Source: TOFU (arXiv 2401.06121). Code and paper differ in one switch, how the wrong answers are averaged:
    "geometric"   exp(-mean loss): the authors' aggregation script and leaderboard, open-unlearning; the default
    "arithmetic"  mean of exp(-loss): the paper, and the code the authors run during training
`compat="open_unlearning"` adds that project's 1e-10 to the denominators. The authors' scripts add nothing, so
`compat="tofu_original"` equals "none".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from metrics.tables import set_columns
from utils.checks import choose
from utils.items.metric import (
    KS,
    Evidence,
    Metric,
    Samples,
    checked_items,
    ks_distance,
    ks_intervals,
    ks_pvalue_statistic,
    ks_test,
    measured,
)

Average = Literal["geometric", "arithmetic"]
Compat = Literal["none", "tofu_original", "open_unlearning"]

EPS: dict[str, float] = {"none": 0.0, "tofu_original": 0.0, "open_unlearning": 1e-10}
UTILITY_TASKS = ("retain", "real_authors", "world_facts")
TASKS = (*UTILITY_TASKS, "forget")
CHOICE_TASKS = ("real_authors", "world_facts")  # wrong answers compete with the true one in `*_prob`
PARTS = ("prob", "rougeL_recall", "truth_ratio")
UTILITY_PARTS = tuple(f"{task}_{part}" for task in UTILITY_TASKS for part in PARTS)
PAPER = "TOFU (arXiv 2401.06121)"


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Scores of one task, n items in row order. Losses are averages over the tokens of an answer, in nats.

    gt            (n,)   loss of the true answer
    paraphrased   (n,)   loss of the paraphrased answer (the true answer where a task has no paraphrase)
    perturbed     (n, J) losses of the J wrong answers
    rougeL_recall (n,)   of the generation against the true answer; `rouge1_recall` likewise, optional

    Raises ValueError naming the field if shapes disagree, if there are no items, or if a value is NaN or infinite.
    """

    gt: np.ndarray
    paraphrased: np.ndarray
    perturbed: np.ndarray
    rougeL_recall: np.ndarray
    rouge1_recall: np.ndarray | None = None

    def __post_init__(self) -> None:
        set_columns(self, wide=("perturbed",))

    def __len__(self) -> int:
        return len(self.gt)


def probability(avg_loss: ArrayLike) -> np.ndarray:
    """exp(-loss) of answers, any shape: the geometric mean of their token probabilities."""
    return np.exp(-np.asarray(avg_loss, dtype=np.float64))


def choice_probability(correct_avg: ArrayLike, wrong_avg: ArrayLike, eps: float = 0.0) -> np.ndarray:
    """p(correct) / (p(correct) + sum of p(wrong) + eps), length-normalised; losses (n,) and (n, J) -> (n,).

    The paper writes unnormalised probabilities; every released code normalises by length, and so does this.
    """
    correct, wrong = _loss_pair(correct_avg, wrong_avg)
    return np.exp(-correct - _log_sum(np.column_stack([-correct, -wrong]), eps))


def truth_ratio(
    paraphrased_avg: ArrayLike, perturbed_avg: ArrayLike, average: Average = "geometric", eps: float = 0.0
) -> np.ndarray:
    """R = p(wrong) / (p(paraphrased) + eps) per item, losses (n,) and (n, J) -> (n,) in [0, inf].

    Large R: the model prefers wrong answers. The head of this file explains `average`; ValueError for another name.
    """
    log_correct, log_wrong = _log_pair(paraphrased_avg, perturbed_avg, average)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.exp(log_wrong - _log_sum(log_correct[:, None], eps))


def truth_ratio_forget(ratio: ArrayLike, eps: float = 0.0) -> np.ndarray:
    """min(R, 1 / (R + eps)) per item: 1 where the model is undecided between right and wrong, 0 at both extremes."""
    ratio = np.asarray(ratio, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        return np.minimum(ratio, 1.0 / (ratio + eps))


def truth_ratio_retain(ratio: ArrayLike) -> np.ndarray:
    """max(0, 1 - R) per item: 1 where the model is sure of the right answer, 0 where it prefers the wrong ones."""
    return np.maximum(0.0, 1.0 - np.asarray(ratio, dtype=np.float64))


def truth_ratio_probability(
    paraphrased_avg: ArrayLike, perturbed_avg: ArrayLike, average: Average = "geometric", eps: float = 0.0
) -> np.ndarray:
    """p(paraphrased) / (p(paraphrased) + p(wrong) + eps) per item, losses (n,) and (n, J) -> (n,) in [0, 1].

    The truth ratio as a probability, 1 / (1 + R) for eps = 0: open-unlearning's `prob_mean` (arXiv 2506.12618).
    """
    log_correct, log_wrong = _log_pair(paraphrased_avg, perturbed_avg, average)
    return np.exp(log_correct - _log_sum(np.column_stack([log_correct, log_wrong]), eps))


def harmonic_mean(values: ArrayLike) -> float:
    """NaN if any number is NaN, else 0 if any is 0. Raises ValueError if there is none or one is negative."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or (array < 0).any():
        raise ValueError(f"the harmonic mean needs one or more numbers, none of them negative; got {array.tolist()}.")
    if np.isnan(array).any():
        return float("nan")
    with np.errstate(divide="ignore", over="ignore"):
        return float(array.size / np.sum(1.0 / array))


def model_utility(components: Mapping[str, float]) -> float:
    """Harmonic mean of the nine numbers named in UTILITY_PARTS; other entries, such as those of forget, are ignored.

    Raises ValueError naming the components that are missing.
    """
    missing = [name for name in UTILITY_PARTS if name not in components]
    if missing:
        raise ValueError(f"model_utility: {', '.join(missing)} missing; score {', '.join(UTILITY_TASKS)} first.")
    return harmonic_mean([components[name] for name in UTILITY_PARTS])


def forget_quality(unlearned: ArrayLike, retained: ArrayLike) -> KS:
    """Exact two-sided two-sample Kolmogorov-Smirnov test between truth ratios on the forget set, (n,), (m,) -> KS.

    `unlearned` belongs to the model under test, `retained` to the model finetuned without the forget set; raw ratios
    R. The p-value is 1 for identical samples; TOFU (arXiv 2401.06121) calls it forget quality. That both samples come
    from the same questions is up to the caller: the test does not pair them. Raises ValueError if either sample is
    empty or holds a NaN: an undefined truth ratio must not pass as forgetting.
    """
    return ks_test(
        checked_items(unlearned, "truth ratios of the unlearned model"),
        checked_items(retained, "truth ratios of the retain model"),
    )


def tofu_metrics(
    tasks: Mapping[str, TaskScores],
    retained: TaskScores | None,
    average: Average = "geometric",
    compat: Compat = "none",
    resamples: int = 1000,
) -> dict[str, Metric]:
    """All TOFU numbers that `tasks` allow, by name, each with its 95 % bootstrap interval over items.

    `tasks` holds any of retain, real_authors, world_facts, forget. For each: `<task>_prob`, `<task>_rougeL_recall`,
    `<task>_truth_ratio`. With all but forget: `model_utility`. With forget and `retained`, the retain model's scores
    on the same forget questions: `forget_quality` and `ks_statistic`. These two always use the geometric average, as
    every released code does. Their intervals may leave out the value itself, see `utils.items.metric.ks_intervals`.
    Raises ValueError for an unknown task, average or compat.
    """
    choose("compat", compat, EPS)
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise ValueError(f"task {unknown[0]}: TOFU has {', '.join(TASKS)}.")
    items = {task: _items(task, tasks[task], average, EPS[compat]) for task in TASKS if task in tasks}
    metrics = metrics_of_items(items, average, compat, resamples)
    if "forget" in tasks and retained is not None:
        metrics |= tofu_forget_metrics(tasks["forget"], retained, compat, resamples)
    return metrics


def metrics_of_items(
    items: Mapping[str, Mapping[str, np.ndarray]], average: Average, compat: Compat, resamples: int
) -> dict[str, Metric]:
    """Means of what each question has, task -> part of PARTS -> (n,), and model utility where all nine of its parts are there."""
    switch = f"average={average}, compat={compat}; {PAPER}"
    sources = {"prob": f"compat={compat}; {PAPER}", "rougeL_recall": PAPER, "truth_ratio": switch}
    metrics: dict[str, Metric] = {}
    for task, columns in items.items():
        for part, column in columns.items():
            definition = f"{_DEFINITIONS.get(f'{task}_{part}', _DEFINITIONS[part])}; {sources[part]}"
            metrics[f"{task}_{part}"] = measured({task: column}, definition, resamples=resamples)
    if all(name in metrics for name in UTILITY_PARTS):
        groups = {task: np.column_stack([items[task][part] for part in PARTS]) for task in UTILITY_TASKS}
        definition = f"harmonic mean of {', '.join(PARTS)} on {', '.join(UTILITY_TASKS)} (nine means); {switch}"
        metrics["model_utility"] = measured(groups, definition, _utility_of_items, resamples=resamples)
    return metrics


_CHOICE = "mean of p(true answer) / (p(true answer) + sum of p(wrong answers)), each p = exp(-average token loss)"
_DEFINITIONS = {
    "prob": "mean of exp(-average token loss of the true answer)",
    "real_authors_prob": _CHOICE,
    "world_facts_prob": _CHOICE,
    "rougeL_recall": "mean ROUGE-L recall of the generation against the true answer",
    "truth_ratio": "mean of max(0, 1 - R), R = p(wrong answers) / p(right answer)",
    "forget_truth_ratio": "mean of min(R, 1/R), R = p(wrong answers) / p(right answer)",
}


def _items(task: str, scores: TaskScores, average: Average, eps: float) -> dict[str, np.ndarray]:
    """Per-item probability, ROUGE-L recall and transformed truth ratio, (n,) each, by the names in PARTS."""
    prob = choice_probability(scores.gt, scores.perturbed, eps) if task in CHOICE_TASKS else probability(scores.gt)
    ratio = truth_ratio(scores.paraphrased, scores.perturbed, average, eps)
    transformed = truth_ratio_forget(ratio, eps) if task == "forget" else truth_ratio_retain(ratio)
    return dict(zip(PARTS, (prob, scores.rougeL_recall, transformed), strict=True))


def _utility_of_items(groups: Samples) -> float:
    return harmonic_mean(np.concatenate([groups[task].mean(axis=0) for task in UTILITY_TASKS]))


def tofu_forget_metrics(forget: TaskScores, retained: TaskScores, compat: Compat, resamples: int) -> dict[str, Metric]:
    """`forget_quality` and `ks_statistic` between the truth ratios of two models on the forget set (`forget_quality` above)."""
    own, of_oracle = (truth_ratio(scores.paraphrased, scores.perturbed, eps=EPS[compat]) for scores in (forget, retained))
    return forget_metrics(own, of_oracle, compat, resamples)


def forget_metrics(forget: np.ndarray, retained: np.ndarray, compat: Compat, resamples: int) -> dict[str, Metric]:
    """The same of their geometric truth ratios, (n,) and (m,). Raises ValueError as `forget_quality`."""
    test = forget_quality(forget, retained)
    of_what = (
        f"the exact two-sided two-sample KS test between forget-set truth ratios, {len(forget)} items against "
        f"{len(retained)} of the retain model; average=geometric, compat={compat}; {PAPER}"
    )
    distance, quality = ks_intervals(forget, retained, resamples=resamples)
    samples = {"first": forget, "second": retained}
    # Both are asked the same questions: the names tell them to be those of one task.
    items = {group: [("forget", index) for index in range(len(values))] for group, values in samples.items()}
    by_pvalue, by_distance = Evidence(samples, ks_pvalue_statistic(), items), Evidence(samples, ks_distance, items)
    return {
        "forget_quality": Metric(test.pvalue, len(forget), quality, f"p-value of {of_what}", by_pvalue),
        "ks_statistic": Metric(test.statistic, len(forget), distance, f"statistic of {of_what}", by_distance),
    }


def _loss_pair(correct_avg: ArrayLike, wrong_avg: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    correct, wrong = np.asarray(correct_avg, dtype=np.float64), np.asarray(wrong_avg, dtype=np.float64)
    if correct.ndim != 1 or wrong.ndim != 2 or len(correct) != len(wrong) or wrong.shape[1] == 0:
        raise ValueError(
            f"losses of right and wrong answers have shapes {correct.shape} and {wrong.shape}; give (n,) and (n, J)."
        )
    return correct, wrong


def _log_pair(correct_avg: ArrayLike, wrong_avg: ArrayLike, average: Average) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of the right answer and of the averaged wrong ones, (n,) each."""
    correct, wrong = _loss_pair(correct_avg, wrong_avg)
    if average == "geometric":
        return -correct, -wrong.mean(axis=1)
    if average == "arithmetic":
        return -correct, logsumexp(-wrong, axis=1) - np.log(wrong.shape[1])
    raise ValueError(f"average={average}: the wrong answers are averaged geometric or arithmetic.")


def _log_sum(logs: np.ndarray, eps: float) -> np.ndarray:
    """log(sum of exp(logs) over the last axis + eps), (n, k) -> (n,)."""
    if eps == 0.0:
        return logsumexp(logs, axis=1)
    return np.logaddexp(logsumexp(logs, axis=1), np.log(eps))
