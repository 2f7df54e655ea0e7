"""A set of run folders as one report: which runs count, as what, and in which order.

    table.md      one row per run, see utils/report/table.py
    report.html   the same and more on one page, see utils/report/page.py

Reads only JSON files, and which columns a benchmark has (utils/report/columns.py), so that a report needs neither torch nor the
models.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from natsort import natsorted

from utils.files import flat_settings, read_rows
from utils.report.collapse import collapse, says_how_it_reads
from utils.report.columns import Column, Display, columns_of, read_display
from utils.runs.terminal.closing import evaluate_command

Role = Literal["untouched", "target", "oracle", "method", "relearned", "probe", "log"]
ROLES: tuple[Role, ...] = ("untouched", "target", "oracle", "method", "relearned", "probe", "log")
NAMES: dict[Role, str] = {"oracle": "retain oracle"}  # where a role is called something else in the label of a run
BESIDE: tuple[Role, ...] = ("target", "oracle")  # what methods are seen beside


class ReportError(ValueError):
    """Runs cannot be reported, compared or followed as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Estimate:
    """An entry of metrics.json. `interval` is None where the file gives none."""

    value: float
    interval: tuple[float, float] | None
    n: int | None
    definition: str


@dataclass(frozen=True)
class ReportRun:
    """One evaluated run. `training` and `evaluation` are their run.json; `training` may be unknown, then it is None.

    at: where the evaluation lies, which may be `folder` itself.
    """

    folder: Path
    at: Path
    role: Role
    label: str
    training: Mapping[str, Any] | None
    evaluation: Mapping[str, Any]
    metrics: Mapping[str, Estimate]
    log: Sequence[Mapping[str, Any]]
    generations: Mapping[tuple[str, int], Mapping[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of evaluate.py as dotted keys."""
        return flat_settings(self.evaluation["settings"])

    @property
    def benchmark(self) -> str:
        """The name of the benchmark that it was evaluated on."""
        return str(self.settings.get("benchmark.name", "unknown"))

    def finite(self, metric: str) -> float | None:
        """The number if it was measured and is one that can be placed and compared."""
        estimate = self.metrics.get(metric)
        return estimate.value if estimate is not None and math.isfinite(estimate.value) else None

    @property
    def capsules(self) -> list[Mapping[str, Any]]:
        """run.json of the training, if it is known, and of the evaluation."""
        return [capsule for capsule in (self.training, self.evaluation) if capsule is not None]


@dataclass(frozen=True)
class Report:
    """Everything that table.md and report.html show.

    runs: in order. left_out: name of a folder that is not in the table -> why. command: makes both files again.
    """

    title: str
    runs: Sequence[ReportRun]
    left_out: Mapping[str, str]
    command: str

    @property
    def display(self) -> Display:
        """What is shown of these runs, of one benchmark."""
        return read_display(self.runs[0].benchmark)

    def of_role(self, role: Role) -> list[ReportRun]:
        return [run for run in self.runs if run.role == role]

    @property
    def collapsed(self) -> dict[Path, str]:
        """Folder -> why its run is marked as broken, of one benchmark; utils/report/collapse.py says when."""
        known = [
            {name: estimate.value for name, estimate in run.metrics.items() if says_how_it_reads(name)}
            for role in ("oracle", "target")
            for run in self.of_role(role)
        ]
        reference = next(filter(None, known), {})
        others = [run for run in self.runs if run.role not in (*BESIDE, "untouched")]
        found = {run.folder: collapse({name: entry.value for name, entry in run.metrics.items()}, reference) for run in others}
        return {folder: why for folder, why in found.items() if why}

    def first(self, role: Role, metric: str) -> float | None:
        """The number of the first run of a role that has it."""
        return next((value for run in self.of_role(role) if (value := run.finite(metric)) is not None), None)

    def parts(self) -> dict[str, Report]:
        """Benchmark -> the same report with its runs alone: numbers of different benchmarks share no table."""
        names = dict.fromkeys(run.benchmark for run in self.runs)
        return {name: replace(self, runs=[run for run in self.runs if run.benchmark == name]) for name in names}

    @property
    def measured(self) -> list[str]:
        """Every metric that any run has, in order of first appearance."""
        return list(dict.fromkeys(name for run in self.runs for name in run.metrics))

    @property
    def columns(self) -> list[Column]:
        """What the table of these runs, of one benchmark, shows: declared columns that any run has a number for."""
        return columns_of(self.runs[0].benchmark, self.measured)


def read_report(folder: Path, title: str | None = None, out: Path | None = None) -> Report:
    """Reads a run, or every immediate sub-folder of `folder`: role after role, each in natural order of names.

    A sub-folder counts if it is a finished training run with a finished evaluation in `eval/`, or such an evaluation
    itself. `out`, where the report goes, is passed over. Raises ReportError if no sub-folder counts.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder; give the folder that holds the run folders")
    single = (folder / "run.json").is_file()
    runs: list[ReportRun] = []
    left_out: dict[str, str] = {}
    for path in [folder] if single else natsorted(folder.iterdir(), key=lambda path: path.name):
        if not path.is_dir() or path.name.startswith(".") or (out is not None and path.resolve() == out.resolve()):
            continue
        try:
            runs.append(read_run(path))
        except ReportError as error:
            left_out[path.name] = str(error)
    if not runs:
        why = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:4]) or "it has no sub-folders"
        if single:
            raise ReportError(f"{folder}: {left_out[folder.name]}")
        raise ReportError(f"{folder} holds no finished run with metrics ({why}); run evaluate.py on a finished run")
    runs.sort(key=lambda run: ROLES.index(run.role))
    labels = told_apart([(run.label, run.folder) for run in runs])
    runs = [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
    command = ["python", "scripts/report.py", str(folder), *(["--out", str(out)] if out is not None and out != folder else [])]
    command += ["--title", title] if title else []
    return Report(title or f"Unlearning report: {folder.absolute().name}", runs, left_out, shlex.join(command))


def read_run(folder: Path) -> ReportRun:
    """One run folder, or an evaluation folder. Raises ReportError saying why it cannot be in the table."""
    capsule = _read_capsule(folder, "")
    if capsule["script"] == "evaluate":
        evaluation, at, training = capsule, folder, _trained(capsule["settings"])
    else:
        training, at = capsule, folder / "eval"
        if not (at / "metrics.json").is_file() and not (at / "run.json").is_file():
            raise ReportError(f"it has no eval/metrics.json; make it with: {evaluate_command(folder)}")
        evaluation = _read_capsule(at, "eval/")
    settings = flat_settings(evaluation["settings"])
    if settings.get("reinforced.path") is not None:
        # The logits of two models, model.path less what reinforced.path says louder: no run made that.
        training, label = None, f"{settings['reinforced.name']} (alpha {settings['reinforced.alpha']:g})"
    else:
        label = folder.name if training is None else label_of(training, folder)
    probe = _probe(settings)
    return ReportRun(
        folder,
        at,
        _role(training, evaluation),
        f"{label}, {probe}" if probe else label,
        training,
        evaluation,
        read_metrics(at / "metrics.json"),
        read_rows(folder / "log.jsonl", appended=True),
        _read_generations(at / "generations.jsonl"),
    )


def _read_capsule(folder: Path, shown: str) -> dict[str, Any]:
    """run.json of a finished run. Raises ReportError otherwise."""
    if not (folder / "run.json").is_file():
        raise ReportError(f"it has no {shown}run.json, so nobody knows what made its numbers")
    capsule = _read_json(folder / "run.json", f"{shown}run.json")
    absent = [key for key in ("script", "status", "settings") if key not in capsule]
    if absent:
        raise ReportError(f"{shown}run.json holds no {absent[0]}; run it again")
    if not isinstance(capsule["settings"], dict):
        raise ReportError(f"{shown}run.json: its settings are no object; run it again")
    if capsule["status"] != "finished":
        raise ReportError(f"{shown}run.json says {capsule['status']}, not finished; start it again to go on with it")
    return capsule


def _read_json(path: Path, shown: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{shown} is damaged ({error}); run it again") from error
    if not isinstance(content, dict):
        raise ReportError(f"{shown} holds no object; run it again")
    return content


def read_metrics(path: Path) -> dict[str, Estimate]:
    """The entries of metrics.json that have a value. Raises ReportError saying what is wrong with the file."""
    if not path.is_file():
        raise ReportError("its evaluation wrote no metrics.json; run evaluate.py again with rescore=true")
    estimates = {}
    for name, entry in _read_json(path, "metrics.json").items():
        if not isinstance(entry, dict) or "value" not in entry:
            raise ReportError(f"metrics.json: {name} holds no value; run evaluate.py again with rescore=true")
        if entry["value"] is None:
            continue
        try:
            ends = [float(end) for end in entry.get("ci95") or ()]
            interval = (ends[0], ends[1]) if ends else None
            estimates[name] = Estimate(float(entry["value"]), interval, entry.get("n"), str(entry.get("definition", "")))
        except (TypeError, ValueError, IndexError) as error:
            again = "run evaluate.py again with rescore=true"
            raise ReportError(f"metrics.json: {name} is damaged ({error}); {again}") from error
    return estimates


def _read_generations(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Task and index -> the row of a question of the benchmark's that the model answered in words."""
    needed = {"task", "asked_by", "index", "question", "generation"}
    rows = [row for row in read_rows(path, appended=True) if needed <= row.keys()]
    return {(row["task"], row["index"]): row for row in rows if not row["asked_by"]}


def _trained(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """run.json of the run whose model was evaluated, if it is at hand."""
    path = flat_settings(settings).get("model.path")
    if path is None:
        return None
    try:
        return _read_capsule(Path(str(path)), "")
    except ReportError:
        return None


def _role(training: Mapping[str, Any] | None, evaluation: Mapping[str, Any]) -> Role:
    """What the runs say of themselves; of an older run what its settings tell."""
    settings = flat_settings(evaluation["settings"])
    if settings.get("from_logs") is not None:
        return "log"
    if _probe(settings):
        return "probe"
    said = evaluation.get("role")
    if said is not None and said not in ROLES:
        raise ReportError(f"run.json: role={said} is none of {', '.join(ROLES)}; run it again")
    return said or ("method" if training is None else _trained_role(training))


def _trained_role(training: Mapping[str, Any]) -> Role:
    if training.get("role") in ROLES:
        return training["role"]
    if training["script"] != "finetune":
        return "method"
    settings = flat_settings(training["settings"])
    harmless = read_display(str(settings.get("benchmark.name"))).oracle
    parts = str(settings.get("split")).split("+")
    return "oracle" if all(part.startswith(harmless) for part in parts) else "target"


def _probe(settings: Mapping[str, Any]) -> str:
    """What the probe is called, "" for the benchmark's own questions. settings: of evaluate.py, as dotted keys."""
    name = str(settings.get("probe._target_") or "").rpartition(".")[2]
    return "" if name in ("", "Unchanged") else name.lower()


def label_of(training: Mapping[str, Any], folder: Path) -> str:
    """What a training run is called, from its run.json: its role and split, or its method."""
    settings = flat_settings(training["settings"])
    role = _trained_role(training)
    if role != "method":
        return f"{NAMES.get(role, role)} ({settings.get('split')})"
    name = str(settings.get("method.name", folder.name))
    divergence = settings.get("method.loss.divergence")
    return name if divergence is None or name.endswith(f"_{divergence}") else f"{name} ({divergence})"


def told_apart(named: Sequence[tuple[str, Path]]) -> list[str]:
    """The labels of runs, with the folder's name behind those that several share. named: label and folder of each."""
    count = Counter(label for label, _ in named)
    return [f"{label} · {folder.name}" if count[label] > 1 else label for label, folder in named]
