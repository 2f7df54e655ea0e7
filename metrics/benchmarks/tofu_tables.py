"""From the tables of an evaluation, or the logs of TOFU's own code, to TOFU's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from metrics.benchmarks.null_oracles import null_metrics
from metrics.benchmarks.tofu import TASKS, Average, Compat, TaskScores, tofu_metrics
from metrics.benchmarks.tofu_logs import read_tofu_log
from metrics.rouge import rouge
from metrics.tables import average_losses, by_index
from utils.checks import choose
from utils.items.metric import Metric
from utils.items.saved import Metrics, Row, Saved


def tofu_task_scores(scores: pd.DataFrame, task: str, generations: Sequence[Row] = ()) -> TaskScores:
    """One TOFU task; generations: the rows of that task. Without them ROUGE is 0, and only the truth ratio may be used."""
    rows = average_losses(scores[scores["task"] == task]).sort_values(["index", "number"])
    by_role = {role: part for role, part in rows.groupby("role")}
    texts = by_index(generations)
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
class TofuMetrics(Metrics):
    """The metrics of TOFU. truth_ratio: geometric | arithmetic average over the wrong answers."""

    truth_ratio: Average = "geometric"

    def __post_init__(self) -> None:
        choose("benchmark.truth_ratio", self.truth_ratio, get_args(Average))

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """All TOFU metrics of one evaluation; with oracles of other seeds also forget quality among them (null_oracles.py)."""
        scored = set(saved.scores["task"])
        tasks = {task: tofu_task_scores(saved.scores, task, saved.rows(task)) for task in TASKS if task in scored}
        retained, *nulls = [
            None if table is None else tofu_task_scores(table, "forget") for table in (saved.oracle, *saved.nulls)
        ]
        compat = _aggregation(saved.compat)
        metrics = tofu_metrics(tasks, retained, self.truth_ratio, compat, saved.resamples)
        if retained is not None and nulls:
            metrics |= null_metrics(tasks["forget"], retained, nulls, compat, saved.resamples)
        return metrics

    def from_logs(self, log: Path, oracle_log: Path | None, compat: str, resamples: int) -> dict[str, Metric]:
        """The metrics of aggregated logs of the original TOFU code."""
        retained = None if oracle_log is None else read_tofu_log(oracle_log)["forget"]
        return tofu_metrics(read_tofu_log(log), retained, self.truth_ratio, _aggregation(compat), resamples)


def _aggregation(compat: str) -> Compat:
    # FLAT and MEOW evaluate TOFU with the original aggregation.
    return "tofu_original" if compat in ("flat_released", "meow_released") else compat
