"""Several runs in a row, each as a person would start it: in one folder, gone on with when interrupted, compared by a metric."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from utils import ROOT
from utils.checks import did_you_mean_or_all
from utils.files import read_json, write_json
from utils.runs.cli import as_override

Metrics = Mapping[str, Mapping[str, Any]]
Call = Callable[[str, Sequence[str]], None]  # does what `python <script>.py OVERRIDES` does, given script and overrides


def call_script(script: str, overrides: Sequence[str]) -> None:
    """`python <script>.py OVERRIDES` in a process of its own, so that its memory is free afterwards. Raises ValueError."""
    if subprocess.run([sys.executable, str(ROOT / f"{script}.py"), *overrides]).returncode != 0:
        raise ValueError(f"{script}.py failed, for the reason above; the same command goes on where it stopped")


def script_main(script: str) -> Callable[[DictConfig], None]:
    """What `<script>.py` does with its settings, below its command line: in this process, and errors are raised."""
    return inspect.unwrap(runpy.run_path(str(ROOT / f"{script}.py"), run_name=f"{script}_script")["main"])


def finished_run(folder: Path) -> dict[str, Any] | None:
    """run.json of a run folder that says it is finished; None for any other folder."""
    capsule = read_json(folder / "run.json")
    return capsule if capsule is not None and capsule.get("status") == "finished" else None


def snapshots(run: Path) -> dict[int, Path]:
    """Step -> folder of the models that a training run kept on its way, in order."""
    folders = {int(path.name): path for path in (run / "snapshots").glob("*/") if path.name.isdigit()}
    return dict(sorted(folders.items()))


def named_models(**paths: Path | str) -> dict[str, str | None]:
    """Models as settings of a series: name -> path, and `weights of NAME` -> their hash, None if no run.json tells it."""
    facts: dict[str, str | None] = {}
    for name, path in paths.items():
        facts |= {name: str(path), f"weights of {name}": (read_json(Path(path) / "run.json") or {}).get("weights")}
    return facts


def open_series(out: Path, name: str, settings: Mapping[str, Any], results: str) -> bool:
    """Begins a series in `out`, whose settings are kept in the file `name`; False if it was begun with these settings already.

    results: pattern of the folders that hold numbers. Raises ValueError if there are some of other settings, and if `out` holds
    something else.
    """
    series = read_json(out / name)
    if series is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and holds no {name}; choose another")
    if series is not None:
        before = series.get("settings", {})
        changed = [f"{key}: {before.get(key)} -> {now}" for key, now in settings.items() if before.get(key) != now]
        if not changed:
            return False
        if any(out.glob(results)):
            raise ValueError(f"--out {out} holds results with other settings ({'; '.join(changed)}); choose another")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / name, {"status": "running", "settings": settings})
    return True


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation. requests: which forget questions and tokens it is about, None if it does not say."""

    folder: Path
    metrics: Metrics
    requests: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Evaluation | None:
        """The evaluation in a folder; None if there is none that is finished."""
        metrics, capsule = read_json(folder / "metrics.json"), finished_run(folder)
        return cls(folder, metrics, capsule.get("requests")) if metrics and capsule else None

    @classmethod
    def of_oracle(cls, folder: Path) -> Evaluation:
        """An evaluation of the retain oracle: its folder, or a run folder that holds it in eval/. Raises ValueError."""
        evaluation = cls.read(folder) or cls.read(folder / "eval")
        if evaluation is None:
            made = f"evaluate.py model.path=ORACLE out={folder}"
            raise ValueError(f"--oracle {folder} holds no finished evaluation; make one with {made}")
        return evaluation

    @classmethod
    def made(cls, folder: Path, overrides: Sequence[str], call: Call) -> Evaluation:
        """The evaluation in `folder`, which evaluate.py makes with `overrides` unless it is finished. Raises ValueError."""
        if cls.read(folder) is None:
            call("evaluate", [*overrides, as_override("out", str(folder))])
        evaluation = cls.read(folder)
        if evaluation is None:
            raise ValueError(f"the evaluation left no finished result in {folder}; see its output")
        return evaluation

    def value(self, metric: str) -> float:
        """Raises ValueError if it was not measured, or is no number."""
        if metric not in self.metrics:
            hint = did_you_mean_or_all(metric, sorted(self.metrics))
            raise ValueError(f"--metric {metric}: {self.folder} has no such metric{hint}")
        value = self.metrics[metric].get("value")
        if value is None or not isfinite(value):
            raise ValueError(f"--metric {metric}: it is {value} in {self.folder}, which nothing can be compared with")
        return float(value)

    def compared(self, oracle: Evaluation, metric: str) -> float:
        """The value. Raises ValueError as `value` does, and if the oracle's is about other questions or defined differently."""
        value = self.value(metric)
        ours, theirs = self.metrics[metric], oracle.metrics[metric]
        differences = [key for key in ("n", "definition") if ours.get(key) != theirs.get(key)]
        if None not in (self.requests, oracle.requests) and self.requests != oracle.requests:
            differences.append("questions or tokens")
        if differences:
            raise ValueError(
                f"{metric} of {self.folder} and {oracle.folder} cannot be compared: they differ in {', '.join(differences)}; "
                "evaluate the retain oracle with the same settings"
            )
        return value
