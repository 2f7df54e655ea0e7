"""From the tables of an evaluation, or the logs of TOFU's own code, to TOFU's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metrics.benchmarks.null_oracles import null_metrics
from metrics.benchmarks.tofu import TASKS, TaskScores, tofu_metrics
from metrics.benchmarks.tofu_logs import read_tofu_log
from metrics.rouge import rouge
from metrics.tables import average_losses
from utils.items.metric import Metric


def tofu_task_scores(scores: pd.DataFrame, generations: Sequence[dict], task: str) -> TaskScores:
    """One TOFU task; ROUGE is NaN-free zero-length when the task has no generations (then only its truth ratio may be used)."""
    rows = average_losses(scores[scores["task"] == task]).sort_values(["index", "number"])
    by_role = {role: part for role, part in rows.groupby("role")}
    texts = {row["index"]: row for row in generations if row["task"] == task}
    indices = by_role["answer"]["index"].tolist()
    found = [rouge(texts[i]["generation"], texts[i]["truth"]) if texts else None for i in indices]
    return TaskScores(
        gt=by_role["answer"]["loss"].to_numpy(),
        paraphrased=by_role["paraphrased"]["loss"].to_numpy(),
        perturbed=by_role["perturbed"]["loss"].to_numpy().reshape(len(indices), -1),
        rougeL_recall=np.array([r.rougeL_recall if r else 0.0 for r in found]),
        rouge1_recall=np.array([r.rouge1_recall if r else 0.0 for r in found]),
    )


@dataclass(frozen=True)
class TofuMetrics:
    """The metrics of TOFU. truth_ratio: geometric | arithmetic average over the wrong answers."""

    truth_ratio: str = "geometric"

    def __post_init__(self) -> None:
        if self.truth_ratio not in ("geometric", "arithmetic"):
            raise ValueError(f"benchmark.truth_ratio={self.truth_ratio}: write geometric or arithmetic")

    def from_tables(
        self, scores: pd.DataFrame, generations: Sequence[dict], oracle: pd.DataFrame | None, compat: str, resamples: int
    ) -> dict[str, Metric]:
        """All TOFU metrics of one evaluation. oracle: the retain oracle's scores of the forget task, or None."""
        tasks = {task: tofu_task_scores(scores, generations, task) for task in TASKS if (scores["task"] == task).any()}
        retained = None if oracle is None else tofu_task_scores(oracle, (), "forget")
        return tofu_metrics(tasks, retained, self.truth_ratio, _aggregation(compat), resamples)

    def against_nulls(
        self, scores: pd.DataFrame, oracle: pd.DataFrame, nulls: Sequence[pd.DataFrame], compat: str, resamples: int
    ) -> dict[str, Metric]:
        """Forget quality placed among retain oracles of other seeds (null_oracles.py). nulls: their forget scores."""
        forget, retained, *others = (tofu_task_scores(table, (), "forget") for table in (scores, oracle, *nulls))
        return null_metrics(forget, retained, others, _aggregation(compat), resamples=resamples)

    def from_logs(self, log: Path, oracle_log: Path | None, compat: str, resamples: int) -> dict[str, Metric]:
        """The metrics of aggregated logs of the original TOFU code."""
        retained = None if oracle_log is None else read_tofu_log(oracle_log)["forget"]
        return tofu_metrics(read_tofu_log(log), retained, self.truth_ratio, _aggregation(compat), resamples)


def _aggregation(compat: str) -> str:
    # FLAT evaluates TOFU with the original aggregation.
    return "tofu_original" if compat == "flat_released" else compat
