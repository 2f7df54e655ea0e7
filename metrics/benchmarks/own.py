"""Numbers about data of the user's own (data/benchmarks/own.py). Tasks: forget, retain, holdout, general, as there are.

    <task>_prob                    exp(mean log-probability of the tokens of the true answer)
    <task>_rougeL_recall           ROUGE-L recall, stemmed, of the model's own answer against the true one
    <task>_recited                 share of answers of which that is at least `recited`: they are given away
    <task>_refusals                share of answers that begin as a refusal does (metrics/refusals.py)
    <task>_empty, _rep3, _words    how the answers read (metrics/text_quality.py)
    exact_memorization_<task>, extraction_strength_<task>         as measure=memorization has them
    <task>_truth_ratio             where rows have wrong answers, as TOFU has it
    forget_quality, ks_statistic   with a retain oracle, of rows with wrong answers
    mia_<attack> ...               with a holdout, as measure=membership has them
    <task>_acc                     of tasks of lm-evaluation-harness

Numbers of the model before unlearning end in _before (utils/runs/score.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from metrics.benchmarks.tofu import probability, tofu_forget_metrics, truth_ratio, truth_ratio_forget, truth_ratio_retain
from metrics.benchmarks.tofu_tables import tofu_task_scores
from metrics.benchmarks.utility import accuracies
from metrics.measures.membership import Membership
from metrics.measures.memorization import Memorization
from metrics.refusals import is_refusal
from metrics.rouge import rouge
from metrics.tables import average_losses, by_question, mean_over, per_question
from metrics.text_quality import reading
from utils.checks import share
from utils.items.metric import Metric
from utils.items.saved import Metrics, Row, Saved

FORGET, RETAIN, HOLDOUT, GENERAL = "forget", "retain", "holdout", "general"
TASKS: Mapping[str, str] = {
    FORGET: "what is to be forgotten",
    RETAIN: "what is kept",
    HOLDOUT: "rows of the same kind that were never learned",
    GENERAL: "general texts and instructions",
}
READ = ("empty", "rep3", "words")


@dataclass(frozen=True)
class OwnMetrics(Metrics):
    """recited: ROUGE-L recall from which an answer counts as given away. Raises ValueError unless it is above 0 and up to 1."""

    recited: float = 0.8
    memorization: Memorization = field(default_factory=lambda: Memorization("memorization"))
    membership: Membership = field(default_factory=lambda: Membership("membership"))

    def __post_init__(self) -> None:
        share("benchmark.metrics.recited", self.recited)

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """All numbers that the tables allow."""
        metrics: dict[str, Metric] = {}
        scored = [task for task in TASKS if task in set(saved.scores["task"])]
        for task in scored:
            metrics |= self._probability(task, saved) | self._answers(task, saved) | _truth_ratio(task, saved)
        metrics |= _forget_quality(saved)
        metrics |= self.memorization.numbers(saved)
        if HOLDOUT in scored:
            metrics |= self.membership.numbers(saved)
        asked = [row["task"] for row in saved.generations if "acc" in row]
        for task in dict.fromkeys(asked):
            metrics |= accuracies(task, saved.rows(task), saved.resamples)
        return metrics

    def _probability(self, task: str, saved: Saved) -> dict[str, Metric]:
        rows = average_losses(saved.scores[(saved.scores["task"] == task) & (saved.scores["role"] == "answer")])
        values = per_question(probability(rows["loss"]), rows)
        words = f"mean exp(mean log-probability of the tokens of the true answer), {TASKS[task]}; TOFU (arXiv 2401.06121)"
        return {f"{task}_prob": mean_over(values, words, saved.resamples, task)}

    def _answers(self, task: str, saved: Saved) -> dict[str, Metric]:
        rows = saved.rows(task)
        if not rows:
            return {}
        recall = by_question((rouge(row["generation"], row["truth"]).rougeL_recall for row in rows), rows)
        about = f"the model's own answers, {TASKS[task]}"
        made = {
            "rougeL_recall": (recall, f"mean ROUGE-L recall, stemmed, of {about}, against the true ones"),
            "recited": (
                (recall >= self.recited).astype(float),
                f"share of {about}, whose ROUGE-L recall against the true one is at least {self.recited:g}; ours",
            ),
            "refusals": (_share_of(rows, is_refusal), f"share of {about}, that begin as a refusal does; ours"),
        }
        metrics = {f"{task}_{name}": mean_over(values, words, saved.resamples, task) for name, (values, words) in made.items()}
        read = reading({(task, row["index"]): row["generation"] for row in rows}, saved.resamples)
        return metrics | {f"{task}_{name}": read[name] for name in READ if name in read}


def _share_of(rows: list[Row], holds: Callable[[str], bool]) -> pd.Series:
    return by_question((float(holds(row["generation"])) for row in rows), rows)


def _with_wrong(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows of a task's questions that have wrong answers beside the true one."""
    rows = table[table["task"] == task]
    return rows[rows["index"].isin(set(rows.loc[rows["role"] == "perturbed", "index"]))]


def _truth_ratio(task: str, saved: Saved) -> dict[str, Metric]:
    rows = _with_wrong(saved.scores, task)
    if rows.empty:
        return {}
    scores = tofu_task_scores(rows, task)
    ratio = truth_ratio(scores.paraphrased, scores.perturbed)
    values = truth_ratio_forget(ratio) if task == FORGET else truth_ratio_retain(ratio)
    what = "min(R, 1/R)" if task == FORGET else "max(0, 1 - R)"
    words = f"mean {what}, R = p(wrong answers, geometric mean) / p(right answer), {TASKS[task]}; TOFU (arXiv 2401.06121)"
    return {f"{task}_truth_ratio": mean_over(pd.Series(values, index=np.unique(rows["index"])), words, saved.resamples, task)}


def _forget_quality(saved: Saved) -> dict[str, Metric]:
    own = _with_wrong(saved.scores, FORGET)
    retained = None if saved.oracle is None else _with_wrong(saved.oracle, FORGET)
    if own.empty or retained is None or retained.empty:
        return {}
    return tofu_forget_metrics(tofu_task_scores(own, FORGET), tofu_task_scores(retained, FORGET), "none", saved.resamples)
