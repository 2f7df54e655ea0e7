"""Metrics from what an evaluation saved: files alone, without a model and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from utils.distributed import is_main
from utils.evaluation.questions import Questions
from utils.evaluation.results import BEFORE, GENERATIONS, NULLS, ORACLE, SCORES, ResultsError, check, read_table
from utils.files import read_rows, write_json
from utils.items.metric import Metric
from utils.items.saved import Saved


def metrics_from_files(folder: Path, questions: Questions, compat: str, resamples: int) -> dict[str, Metric]:
    """Every metric that the files in `folder` allow, the benchmark's first; the same of the model before end in _before.

    Raises ResultsError if there are no scores, and for a file that is not what run.json says.
    """
    saved = _read(folder, questions, compat, resamples)
    metrics = _numbers(saved, questions)
    before = folder / BEFORE
    if (before / SCORES).is_file():
        of_before = replace(saved, scores=read_table(before / SCORES), generations=read_rows(before / GENERATIONS))
        metrics |= {f"{name}_{BEFORE}": metric for name, metric in _numbers(of_before, questions).items()}
    return {name: metric.clustered(questions.benchmark.subject) for name, metric in metrics.items()}


def _numbers(saved: Saved, questions: Questions) -> dict[str, Metric]:
    metrics = questions.benchmark.metrics.numbers(saved.seen_by(""))
    for measure in questions.measures:
        metrics |= measure.numbers(saved.seen_by(measure.name))
    return metrics


def _read(folder: Path, questions: Questions, compat: str, resamples: int) -> Saved:
    check(folder)
    if not (folder / SCORES).is_file():
        raise ResultsError(f"rescore=true: out={folder} holds no {SCORES}; run the evaluation first, without rescore")
    scores, oracle = read_table(folder / SCORES), folder / ORACLE
    if "asked_by" not in scores:
        raise ResultsError(f"rescore=true: {SCORES} of out={folder} does not say who asked; run the evaluation again")
    return Saved(
        scores,
        read_rows(folder / GENERATIONS),
        read_table(oracle) if oracle.is_file() else None,
        [read_table(path) for path in sorted((folder / NULLS).glob("*.parquet"))],
        compat,
        resamples,
        questions.benchmark.forgotten,
        questions.benchmark.members,
    )


def write_metrics(metrics: Mapping[str, Metric], folder: Path) -> None:
    """Writes metrics.json: name -> {value, n, ci95, definition}; prints the same as a table."""
    if not is_main():
        return
    write_json(folder / "metrics.json", {name: metric.to_json() for name, metric in metrics.items()})
    width = max(len(name) for name in metrics)
    for name, metric in metrics.items():
        low, high = metric.ci95
        print(f"{name:<{width}}  {metric.value:>10.4g}   [{low:.4g}, {high:.4g}]   n={metric.n}")
