"""Two evaluations of the same questions: every metric that both have, as a difference with interval and p-value.

Metrics are computed again from what the evaluations saved, as rescore=true does; how two numbers are compared is
utils/evaluation/paired.py. Refused is what cannot be paired: another benchmark, split or compat, other questions or answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from utils.checks import did_you_mean_or_all, whole
from utils.evaluation.paired import Difference, paired_difference
from utils.files import read_rows
from utils.items.metric import Metric
from utils.report.markdown import escape, table
from utils.report.read import ReportError, ReportRun, read_run
from utils.runs.cli import compose_settings

KEYS = ["task", "asked_by", "index", "role", "number"]
AGREE = ("benchmark.name", "split", "compat")  # what makes two evaluations the same measurement
TOLD = ("benchmark.", "measure.", "probe.", "precision", "model.name", "model.max_length", "model.template.")  # else worth a note
HEADER = ("metric", "A", "B", "B - A", "95 % interval", "p", "n")
FEWEST = 100  # resamples of the intervals of a single run, which nobody reads here

METHOD = (
    "Paired bootstrap: each of {resamples} resamples (seed {seed}) draws questions with replacement, the same ones in both runs, "
    "each group of items on its own, and computes the metric of both on them. Interval: percentiles 2.5 and 97.5 of B - A. "
    "p, two-sided: 2 (1 + min(#{{B - A <= 0}}, #{{B - A >= 0}})) / (1 + {resamples}), at most 1; not corrected for the number of "
    "metrics. Both speak about other questions of the same kind, not about other seeds of training, and with few questions both "
    "are too optimistic."
)


Pair = tuple[ReportRun, ReportRun]


@dataclass(frozen=True)
class Comparison:
    """skipped: metric -> why it has no difference. notes: in what else the two differ."""

    runs: Pair
    differences: Mapping[str, Difference]
    skipped: Mapping[str, str]
    notes: Sequence[str]
    resamples: int
    seed: int

    @property
    def method(self) -> str:
        return METHOD.format(resamples=self.resamples, seed=self.seed)

    def to_json(self) -> dict[str, Any]:
        """The content of comparison.json."""
        return {
            **{
                letter: {"run": str(run.folder), "evaluation": str(run.at), "label": run.label}
                for letter, run in zip("ab", self.runs, strict=True)
            },
            "method": self.method,
            "resamples": self.resamples,
            "seed": self.seed,
            "metrics": {name: _entry(difference) for name, difference in self.differences.items()},
            "not_compared": dict(self.skipped),
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """The content of comparison.md, to be read as text too."""
        rows = [[name, *_cells(difference)] for name, difference in self.differences.items()]
        runs = [f"- {letter}: {escape(f'{run.label} ({run.folder})')}" for letter, run in zip("AB", self.runs, strict=True)]
        below = [*self.notes, *(f"Not compared: {name}: {why}" for name, why in self.skipped.items())]
        listed = ["", *(f"- {escape(line)}." for line in below)] if below else []
        return "\n".join(["# Comparison", "", *runs, "", table(HEADER, rows), "", self.method, *listed]) + "\n"


def compare(first: Path, second: Path, names: Sequence[str] = (), resamples: int = 1000, seed: int = 0) -> Comparison:
    """B - A for the evaluations of run A (`first`) and run B (`second`). names: only these metrics; all by default.

    Raises ValueError if the runs cannot be paired, or a metric that was asked for by name cannot.
    """
    whole("--resamples", resamples, 1)
    runs = _scored(first), _scored(second)
    if runs[0].at.resolve() == runs[1].at.resolve():
        raise ReportError(f"{first} and {second} are the same evaluation; name two")
    _check_names(names, runs)
    _check_settings(runs)
    notes = [*_other_settings(runs), *_check_questions(runs), *_other_oracle(runs)]
    both = recomputed(runs[0]), recomputed(runs[1])
    notes += [note for letter, run, metrics in zip("AB", runs, both, strict=True) for note in _outdated(letter, run, metrics)]
    differences: dict[str, Difference] = {}
    skipped: dict[str, str] = {}
    for name in names or dict.fromkeys([*both[0], *both[1]]):
        absent = [letter for letter, metrics in zip("AB", both, strict=True) if name not in metrics]
        try:
            if absent:
                raise ValueError(f"the settings and files of {' and '.join(absent)} do not give it")
            differences[name] = paired_difference(both[0][name], both[1][name], resamples, seed)
        except ValueError as error:
            if names:
                raise ReportError(f"--metrics {name}: {error}") from error
            skipped[name] = str(error)
    if not differences:
        why = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise ReportError(f"{first} and {second} have no metric in common that can be compared: {why}")
    return Comparison(runs, differences, skipped, notes, resamples, seed)


def _scored(path: Path) -> ReportRun:
    """A run whose evaluation kept its scores. Raises ReportError."""
    try:
        run = read_run(path)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error
    if not (run.at / "scores.parquet").is_file():
        raise ReportError(f"{run.at} holds no scores.parquet, so nothing is known per question; evaluate the model itself")
    return run


def recomputed(run: ReportRun) -> dict[str, Metric]:
    """The metrics of an evaluation from its files and settings, each with what it was computed from."""
    from utils.evaluation.numbers import metrics_from_files  # slow imports: what can be refused without them was refused above
    from utils.runs.settings import check_evaluation

    now = OmegaConf.to_container(compose_settings("evaluate"))  # an older evaluation does not know every key
    here = {"out": str(run.at), "rescore": True}
    cfg = OmegaConf.create({**now, **run.evaluation["settings"], **here})
    return metrics_from_files(run.at, check_evaluation(cfg), cfg.compat, FEWEST)


def _check_names(names: Sequence[str], runs: Pair) -> None:
    for name in names:
        for run in runs:
            if name not in run.metrics:
                hint = did_you_mean_or_all(name, sorted(run.metrics))
                raise ReportError(f"--metrics {name}: {run.folder} has no such metric{hint}")


def _check_settings(runs: Pair) -> None:
    first, second = (run.settings for run in runs)
    for key in AGREE:
        if first.get(key) != second.get(key):
            raise ReportError(
                f"{runs[0].folder} and {runs[1].folder} cannot be paired: {key} is {first.get(key)} in one and {second.get(key)} "
                "in the other; evaluate both models in the same way"
            )


def _other_settings(runs: Pair) -> list[str]:
    first, second = (run.settings for run in runs)
    keys = [key for key in dict.fromkeys([*first, *second]) if key.startswith(TOLD) and first.get(key) != second.get(key)]
    if not keys:
        return []
    return ["Evaluated with other settings (A, B): " + "; ".join(f"{key} {first.get(key)}, {second.get(key)}" for key in keys)]


def _check_questions(runs: Pair) -> list[str]:
    """What only one of the runs was asked, as notes. Raises ReportError where the same task holds other questions."""
    tables = [pd.read_parquet(run.at / "scores.parquet") for run in runs]
    rows = [read_rows(run.at / "generations.jsonl") for run in runs]
    texts = [{(row["task"], row["asked_by"], row["index"]): row for row in of_run} for of_run in rows]
    tasks = [
        {*zip(table["task"], table["asked_by"], strict=True), *(place[:2] for place in answered)}
        for table, answered in zip(tables, texts, strict=True)
    ]
    shared = {(task, asker) for task, asker in tasks[0] & tasks[1] if not asker}
    if not shared:
        raise ReportError(f"{runs[0].folder} and {runs[1].folder} have no task in common; evaluate both models in the same way")
    _check_same_rows(runs, shared, [set(table[KEYS].itertuples(index=False, name=None)) for table in tables])
    _check_same_rows(runs, shared, [set(answered) for answered in texts])
    for place in sorted(texts[0].keys() & texts[1].keys()):
        for part in ("question", "truth"):
            pair = [text[place].get(part) for text in texts]
            if pair[0] != pair[1]:
                raise _differ(runs, place[0], place[2], f"the {part} is {pair[0]!r} in one and {pair[1]!r} in the other")
    same_tokenizer = runs[0].settings.get("model.name") == runs[1].settings.get("model.name")
    if same_tokenizer and all("wanted" in table for table in tables):
        joined = tables[0].merge(tables[1], on=KEYS, suffixes=("", "_other"))
        for row in joined[joined["wanted"] != joined["wanted_other"]].to_dict("records"):
            words = f"the answer ({row['role']}) is {row['wanted']!r} in one and {row['wanted_other']!r} in the other"
            raise _differ(runs, row["task"], row["index"], words)
    alone = {"A": tasks[0] - tasks[1], "B": tasks[1] - tasks[0]}
    told = {letter: [f"{task} by {asker}" if asker else task for task, asker in sorted(only)] for letter, only in alone.items()}
    return [f"Only {letter} was asked: {', '.join(names)}" for letter, names in told.items() if names]


def _check_same_rows(runs: Pair, shared: set[tuple[str, str]], rows: Sequence[set[tuple]]) -> None:
    """rows: (task, who asked, index, ...) of everything that was scored, or of everything that was answered."""
    for row in sorted(row for row in rows[0] ^ rows[1] if row[:2] in shared):
        what = " ".join(map(str, row[3:])) or "its answer"
        raise _differ(runs, row[0], row[2], f"{what} is only in {runs[int(row in rows[1])].folder}")


def _differ(runs: Pair, task: str, index: int, words: str) -> ReportError:
    return ReportError(
        f"{runs[0].folder} and {runs[1].folder} were not asked the same: task {task}, row {index + 1}: {words}; evaluate both "
        "models with the same data and settings"
    )


def _other_oracle(runs: Pair) -> list[str]:
    paths = [run.at / "oracle.parquet" for run in runs]
    if not all(path.is_file() for path in paths):
        return []
    first, second = (pd.read_parquet(path).sort_values(KEYS) for path in paths)
    same = len(first) == len(second) and all(map(np.array_equal, first["logp"], second["logp"]))
    words = "A and B compare with different scores of a retain oracle, which adds to the difference in forget quality"
    return [] if same else [words]


def _outdated(letter: str, run: ReportRun, metrics: Mapping[str, Metric]) -> list[str]:
    """Whether metrics.json says something else: rescore=true can write it with other settings than those of run.json."""
    written = run.metrics
    shared = [name for name in metrics if name in written]
    other = [name for name in shared if not isclose(written[name].value, metrics[name].value, rel_tol=1e-6)]
    lost = [name for name in written if name not in metrics]
    notes = [f"metrics.json of {letter} has other values than its settings in run.json give: {', '.join(other)}"] if other else []
    return notes + ([f"Only metrics.json of {letter}, not its settings in run.json, gives {', '.join(lost)}"] if lost else [])


def _entry(difference: Difference) -> dict[str, Any]:
    first, second = difference.first, difference.second
    return {
        "a": {"value": first.value, "n": first.n},
        "b": {"value": second.value, "n": second.n},
        "difference": difference.value,
        "ci95": list(difference.ci95),
        "p": difference.p,
        "definition": first.definition,
    }


def _cells(difference: Difference) -> list[str]:
    first, second = difference.first, difference.second
    low, high = difference.ci95
    n = str(first.n) if first.n == second.n else f"{first.n}, {second.n}"
    numbers = [f"{value:.4g}" for value in (first.value, second.value, difference.value)]
    return [*numbers, f"[{low:.3g}, {high:.3g}]", f"{difference.p:.3g}", n]
