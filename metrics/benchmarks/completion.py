"""The metrics of completion (Harry Potter in FLAT, arXiv 2410.11143): BLEU, ROUGE-L, probability, and the FQ Gap.

The model goes on after the first words of a passage; its text y is compared with the true rest y*. Per row

    bleu            sacrebleu's corpus BLEU of the single pair (y, y*) with its default settings, 0 to 100
    rougeL_recall   ROUGE-L recall with stemming, 0 to 1: a long y is at an advantage
    prob            exp of the mean log-probability of the tokens of y*, teacher-forced

Rows of one passage, which differ in the instruction alone, are averaged first: passages are what is resampled. With B and R the
means of the first two over passages, u the model under test and r the retained model, which never saw the book,

    fq_gap = |B_u - B_r| + |R_u - R_r|   (sum_abs, the default)   or half of it (mean_abs)

This reading of FLAT's FQ Gap is a reconstruction: no released code computes it. BLEU is on 0 to 100 and ROUGE on 0 to 1, so BLEU
decides; read the parts beside it. 0 is best, and is reached by a model that completes neither better nor worse than r.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sacrebleu.metrics import BLEU

from metrics.rouge import rouge
from metrics.tables import answers_of, by_index, mean_over
from utils.checks import choose
from utils.items.metric import Metric, Statistic, checked_items, measured
from utils.items.saved import Metrics, Row, Saved

FORGOTTEN, HOLDOUT = ("train", "test"), "holdout"
TASKS = (*FORGOTTEN, HOLDOUT)
TEXTS = {
    "train": "forgotten passages, behind instructions that training shows",
    "test": "forgotten passages, behind held-out instructions",
    HOLDOUT: "passages of the same book that were never trained on",
}
PARTS = {
    "bleu": "BLEU (sacrebleu, 0 to 100) of the model's completion against the true one",
    "rougeL_recall": "ROUGE-L recall, stemmed, of the model's completion against the true one",
    "prob": "exp(mean log-probability of the tokens of the true completion)",
}
COMBINATIONS: dict[str, Callable[[float, float], float]] = {
    "sum_abs": lambda bleu, rougeL: abs(bleu) + abs(rougeL),
    "mean_abs": lambda bleu, rougeL: (abs(bleu) + abs(rougeL)) / 2,
}
PAPER = "FLAT (arXiv 2410.11143)"


class FQGap(NamedTuple):
    """The gap, and the signed differences that it is made of: unlearned minus retained. BLEU on 0 to 100, ROUGE-L on 0 to 1."""

    value: float
    bleu: float
    rougeL: float


GAP_PARTS: dict[str, tuple[Callable[[FQGap], float], str]] = {
    "fq_gap": (lambda gap: gap.value, "FQ Gap (reconstructed): {joined} of {task}_bleu_gap and {task}_rougeL_gap"),
    "bleu_difference": (lambda gap: gap.bleu, "mean BLEU (0 to 100) of this model less that of the retained model"),
    "rougeL_difference": (lambda gap: gap.rougeL, "mean ROUGE-L recall (0 to 1) of this model less that of the retained model"),
    "bleu_gap": (lambda gap: abs(gap.bleu), "absolute value of {task}_bleu_difference"),
    "rougeL_gap": (lambda gap: abs(gap.rougeL), "absolute value of {task}_rougeL_difference"),
}


def fq_gap(unlearned: ArrayLike, retained: ArrayLike, combination: str = "sum_abs") -> FQGap:
    """FQ Gap between two models. (n, 2), (m, 2): BLEU (0 to 100) and ROUGE-L recall (0 to 1) of each passage.

    combination: sum_abs | mean_abs of the two absolute differences of means. Raises ValueError for another name, no passages,
    NaN, or other than two columns.
    """
    choose("benchmark.metrics.combination", combination, COMBINATIONS)
    means = []
    for name, values in {"unlearned": unlearned, "retained": retained}.items():
        array = checked_items(values, name)
        if array.ndim != 2 or array.shape[1] != 2:
            raise ValueError(f"{name}: its shape is {array.shape}, but (n, 2) is needed: BLEU and ROUGE-L of each passage")
        means.append(array.mean(axis=0))
    bleu_difference, rouge_difference = map(float, means[0] - means[1])
    return FQGap(COMBINATIONS[combination](bleu_difference, rouge_difference), bleu_difference, rouge_difference)


def bleu(generation: str, truth: str) -> float:
    """sacrebleu's corpus BLEU of one pair, default settings (13a tokens, exponential smoothing, always 4-grams), 0 to 100.

    Not its sentence BLEU, which leaves out n-grams longer than a short text. Source: FLAT, released code.
    """
    return float(_bleu().corpus_score([generation], [[truth]]).score)


def completion_rows(scores: pd.DataFrame, generations: Sequence[Row], task: str) -> pd.DataFrame:
    """One row per question of `task`, by index: passage, truth, and PARTS. Raises ValueError if a completion is missing.

    generations: the rows of that task.
    """
    answers = answers_of(scores, task)
    texts = by_index(generations, task, answers["index"])
    rows = []
    for index, logp in answers[["index", "logp"]].itertuples(index=False):
        said, true = texts[index]["generation"], texts[index]["truth"]
        parts = (bleu(said, true), rouge(said, true).rougeL_recall, float(np.exp(np.mean(np.asarray(logp, np.float64)))))
        passage = texts[index].get("passage", index)  # without a number, a row is a passage of its own
        rows.append({"index": index, "passage": passage, "truth": true, **dict(zip(PARTS, parts, strict=True))})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class CompletionMetrics(Metrics):
    """From saved tables to the metrics of completion. combination: sum_abs | mean_abs, how the FQ Gap joins its two parts."""

    combination: str = "sum_abs"

    def __post_init__(self) -> None:
        choose("benchmark.metrics.combination", self.combination, COMBINATIONS)

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """All metrics of one evaluation: <task>_<part>, and with the retained model's rows the FQ Gap of train and test.

        The retained model's own answer is compared with the same text as that of the model under test. Raises ValueError if one
        of the two models lacks an answer.
        """
        metrics: dict[str, Metric] = {}
        for task in (task for task in TASKS if task in set(saved.scores["task"])):
            rows = completion_rows(saved.scores, saved.rows(task), task)
            about = f"{TEXTS[task]}; {len(rows)} rows, compat={saved.compat}; {PAPER}"
            passages = rows.groupby("passage")[[*PARTS]].mean()
            for part, what in PARTS.items():
                metrics[f"{task}_{part}"] = mean_over(passages[part], f"mean {what}, {about}", saved.resamples, task)
            if saved.oracle is not None and task in FORGOTTEN:
                pairs = passages[["bleu", "rougeL_recall"]].join(_retained(rows, saved.oracle, task), rsuffix="_retained")
                metrics |= self._gap(task, pairs, about, saved.resamples)
        return metrics

    def _gap(self, task: str, pairs: pd.DataFrame, about: str, resamples: int) -> dict[str, Metric]:
        """pairs: by passage, BLEU and ROUGE-L of the model, then of the retained model."""
        samples, items = {task: pairs.to_numpy()}, {task: pairs.index.to_list()}
        words = {"task": task, "joined": self.combination.removesuffix("_abs")}

        def statistic(of: Callable[[FQGap], float]) -> Statistic:
            return lambda groups: of(fq_gap(groups[task][:, :2], groups[task][:, 2:], self.combination))

        return {
            f"{task}_{name}": measured(
                samples, f"{definition.format(**words)}, {about}", statistic(of), items=items, resamples=resamples
            )
            for name, (of, definition) in GAP_PARTS.items()
        }


def _retained(rows: pd.DataFrame, oracle: pd.DataFrame, task: str) -> pd.DataFrame:
    """BLEU and ROUGE-L of the retained model's completions, by passage."""
    answers = oracle[(oracle["task"] == task) & (oracle["role"] == "answer")]
    texts = dict(zip(answers["index"], answers["generation"], strict=True)) if "generation" in answers else {}
    found = []
    for index, passage, true in zip(rows["index"], rows["passage"], rows["truth"], strict=True):
        said = texts.get(index)
        if not isinstance(said, str):
            raise ValueError(
                f"oracle.parquet holds no completion of row {index + 1} of task {task} by the retained model: evaluate that "
                "model again, then this one"
            )
        found.append({"passage": passage, "bleu": bleu(said, true), "rougeL_recall": rouge(said, true).rougeL_recall})
    return pd.DataFrame(found).groupby("passage").mean()


@cache
def _bleu() -> BLEU:
    return BLEU()
