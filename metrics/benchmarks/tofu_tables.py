"""From the tables of an evaluation, or the logs of TOFU's own code and of open-unlearning, to TOFU's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from metrics.benchmarks.null_oracles import null_metrics
from metrics.benchmarks.open_unlearning_logs import COMPAT, TOFU, OpenUnlearningLogs, open_logs
from metrics.benchmarks.tofu import (
    EPS,
    TASKS,
    Average,
    Compat,
    TaskScores,
    forget_metrics,
    metrics_of_items,
    tofu_metrics,
    truth_ratio_forget,
    truth_ratio_retain,
)
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

    def from_logs(self, log: Path, oracle_log: Path | None, asked: Saved) -> dict[str, Metric]:
        """The metrics of logs of the original TOFU code, or of open-unlearning. asked: without tables."""
        if logs := open_logs("tofu", log, oracle_log, asked):
            if self.truth_ratio != "geometric":
                raise ValueError(f"benchmark.truth_ratio={self.truth_ratio}: {log} holds geometric averages; leave it out")
            return _of_open_unlearning(logs)
        retained = None if oracle_log is None else read_tofu_log(oracle_log)["forget"]
        return tofu_metrics(read_tofu_log(log), retained, self.truth_ratio, _aggregation(asked.compat), asked.resamples)


def _of_open_unlearning(logs: OpenUnlearningLogs) -> dict[str, Metric]:
    forgotten = partial(truth_ratio_forget, eps=EPS[COMPAT])
    items: dict[str, dict[str, np.ndarray]] = {}
    for (task, part), (metric, field) in TOFU.items():
        if metric in logs.model.content:
            transform = None if part != "truth_ratio" else forgotten if task == "forget" else truth_ratio_retain
            values = logs.model.items(metric, field, transform).to_numpy()
            items.setdefault(task, {})[part] = values if transform is None else transform(values)
    metrics = metrics_of_items(items, "geometric", COMPAT, logs.about.resamples)
    ratios = logs.both(*TOFU["forget", "truth_ratio"], forgotten)
    if ratios is not None:
        metrics |= forget_metrics(ratios[0].to_numpy(), ratios[1].to_numpy(), COMPAT, logs.about.resamples)
    return metrics | logs.measures()


def _aggregation(compat: str) -> Compat:
    # FLAT and MEOW evaluate TOFU with the original aggregation.
    return "tofu_original" if compat in ("flat_released", "meow_released") else compat
