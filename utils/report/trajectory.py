"""A run along its way: every snapshot, the model it started from and the one it ended with, evaluated with the same settings.

RUN/trajectory/<step>/           an evaluation each, as evaluate.py writes it; RUN/trajectory-<benchmark>/ on another benchmark
RUN/trajectory/finished/         of what a method made of its trained model at the end (task arithmetic)
trajectory.json, .md, .html      steps and metrics of all of them: `to_json`, `to_markdown`, utils/report/trajectory_page.py
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from utils.checks import did_you_mean_or_all
from utils.distributed import is_main
from utils.files import read_json, read_rows
from utils.report.read import Estimate, ReportError, label_of, read_metrics, told_apart
from utils.runs.capsule import result_hash
from utils.runs.inherited_settings import evaluation_settings
from utils.runs.run import RunError
from utils.runs.series import finished_run, snapshots
from utils.runs.settings import SettingsError
from utils.weights.folders import model_in

Evaluate = Callable[[DictConfig], None]


@dataclass(frozen=True)
class ModelAtStep:
    """A model on the way of a run. finished: what the method's `finish` made of the trained model, so no further step."""

    step: int
    model: str
    finished: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        return "finished" if self.finished else str(self.step)

    @property
    def words(self) -> str:
        return "finished model" if self.finished else f"step {self.step}"


@dataclass(frozen=True)
class EvaluatedModel:
    """A model on the way with its evaluation."""

    at: ModelAtStep
    folder: Path
    metrics: Mapping[str, Estimate]


@dataclass
class Trajectory:
    """A run, its models in the order of steps, and what was measured of them.

    cfg: settings of the evaluations, but for model.path and out. folder: where these lie. failed: words of a model -> why it has
    no numbers.
    """

    run: Path
    label: str
    models: Sequence[ModelAtStep]
    cfg: DictConfig
    folder: Path
    evaluated: list[EvaluatedModel] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def benchmark(self) -> str:
        return str(self.cfg.benchmark.name)

    @property
    def measured(self) -> list[str]:
        """Every metric that any model has."""
        return list(dict.fromkeys(name for model in self.evaluated for name in model.metrics))

    @cached_property
    def oracle(self) -> Mapping[str, Estimate]:
        """What the retain oracle has, if `oracle` names its evaluation, or a run with one in eval/, about the same questions."""
        for folder in () if self.cfg.get("oracle") in (None, "none") else (Path(self.cfg.oracle), Path(self.cfg.oracle) / "eval"):
            capsule = finished_run(folder)
            if capsule is not None and capsule["script"] == "evaluate":
                asked = capsule["settings"]
                same = (asked["benchmark"]["name"], asked["split"]) == (self.benchmark, self.cfg.split)
                return read_metrics(folder / "metrics.json") if same else {}
        return {}

    @property
    def steps(self) -> list[int]:
        """Of the models that were evaluated."""
        return [model.at.step for model in self.evaluated]

    def settings(self, at: ModelAtStep) -> DictConfig:
        """What evaluate.py gets for a model."""
        cfg = self.cfg.copy()
        cfg.model.path = at.model
        cfg.out = str(self.folder / at.name)
        return cfg


def plan(runs: Sequence[Path], overrides: Sequence[str] = ()) -> list[Trajectory]:
    """What there is to evaluate, with the settings of the runs and `overrides` of evaluate.py. Evaluates nothing.

    Raises ReportError for a run that cannot be followed or runs that cannot be compared, ValueError for bad overrides.
    """
    trajectories = []
    for run in runs:
        capsule = read_capsule(run)
        models, cfg = models_of(run), evaluation_settings(capsule["settings"], overrides)
        same = capsule["settings"]["benchmark"]["name"] == cfg.benchmark.name
        folder = run / ("trajectory" if same else f"trajectory-{cfg.benchmark.name}")
        trajectories.append(Trajectory(run, label_of(capsule, run), models, cfg, folder))
    first = trajectories[0]
    for other in trajectories:
        if other.benchmark != first.benchmark:
            raise ReportError(
                f"{first.run} is about {first.benchmark}, {other.run} about {other.benchmark}; follow them apart, or evaluate "
                "both on one with benchmark=NAME"
            )
    labels = told_apart([(trajectory.label, trajectory.run) for trajectory in trajectories])
    return [replace(trajectory, label=label) for trajectory, label in zip(trajectories, labels, strict=True)]


def read_capsule(run: Path) -> dict[str, Any]:
    """run.json of a training run. Raises ReportError for anything else."""
    capsule = read_json(run / "run.json")
    if not isinstance(capsule, dict) or capsule.get("script") not in ("unlearn", "finetune"):
        raise ReportError(f"{run} is no run of unlearn.py or finetune.py; give a run folder that was trained with snapshots=N")
    return capsule


def models_of(run: Path) -> list[ModelAtStep]:
    """The models of a run that are on disk, by step: where it started (if that is a folder here), snapshots, where it ended.

    The last snapshot and the run's model are one and the same, unless the method made the model from it. Raises ReportError
    for a run without snapshots.
    """
    capsule = read_capsule(run)
    kept = snapshots(run)
    if not kept:
        raise ReportError(f"{run} holds no snapshots; train it with snapshots=N (evaluate.py evaluates its model alone)")
    models = {step: ModelAtStep(step, str(folder)) for step, folder in kept.items()}
    start = capsule["settings"]["model"].get("path")
    if start is not None and model_in(Path(start).expanduser()) is not None:
        models[0] = ModelAtStep(0, start)
    ended = model_in(run) is not None and capsule["status"] == "finished"
    last = _last_step(run, capsule, max(kept))
    made = capsule["settings"].get("method", {}).get("finish") is not None
    if ended and not made:
        models[last] = ModelAtStep(last, str(run))
    return [models[step] for step in sorted(models)] + ([ModelAtStep(last, str(run), finished=True)] if ended and made else [])


def follow(trajectories: Sequence[Trajectory], evaluate: Evaluate, metrics: Sequence[str] = ()) -> None:
    """Evaluates every model; what is finished with the same settings is not evaluated again.

    evaluate: does what evaluate.py does with its settings. A model that fails is told and passed over; settings that no model can
    be evaluated with end all. metrics: names that must be measured. Raises ReportError.
    """
    jobs = [(trajectory, at) for trajectory in trajectories for at in trajectory.models]
    new = [not _is_finished(trajectory.settings(at)) for trajectory, at in jobs]
    done: dict[str, Path] = {}  # several runs may have started from one model
    # What is finished takes no time and would spoil the estimate.
    with tqdm(total=len(jobs), initial=new.count(False), desc="models", unit="model", disable=not is_main()) as bar:
        for (trajectory, at), is_new in zip(jobs, new, strict=True):
            _evaluate(trajectory, at, evaluate, done)
            bar.update(int(is_new))
            if trajectory.evaluated:
                check_metrics(metrics, trajectory.measured)
    for trajectory in trajectories:
        if not trajectory.evaluated:
            why = next(iter(trajectory.failed.values()))
            raise ReportError(f"{trajectory.run}: no model of it could be evaluated; {why}")


def check_metrics(metrics: Sequence[str], measured: Sequence[str]) -> None:
    """Raises ReportError for a metric that was not measured."""
    for name in metrics:
        if name not in measured:
            raise ReportError(f"--metrics {name}: was not measured{did_you_mean_or_all(name, sorted(measured))}")


def _last_step(run: Path, capsule: Mapping[str, Any], snapshot: int) -> int:
    """The last optimizer step, which an early stop may have put before the planned one."""
    records = read_rows(run / "log.jsonl", appended=True)
    return max((record["step"] for record in records if "step" in record), default=capsule.get("steps", snapshot))


def _is_finished(cfg: DictConfig) -> bool:
    capsule = finished_run(Path(cfg.out))
    return capsule is not None and capsule.get("settings_hash") == _hash(cfg)


def _hash(cfg: DictConfig) -> str:
    return result_hash(OmegaConf.to_container(cfg, resolve=True))


def _evaluate(trajectory: Trajectory, at: ModelAtStep, evaluate: Evaluate, done: dict[str, Path]) -> None:
    """Evaluates a model unless another run had the same; a failure is told and kept."""
    cfg = trajectory.settings(at)
    key, where = _hash(cfg), f"{trajectory.run}, {at.words} ({at.model})"
    try:
        if key not in done:
            evaluate(cfg)
            done[key] = Path(cfg.out)
        trajectory.evaluated.append(EvaluatedModel(at, done[key], read_metrics(done[key] / "metrics.json")))
    except (SettingsError, RunError) as error:
        raise ReportError(f"{where}: {error}") from error
    except Exception as error:  # whatever is wrong with one snapshot must not cost the others
        if os.environ.get("LETHE_TRACEBACK") == "1":
            raise
        trajectory.failed[at.words] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if is_main():
            tqdm.write(f"{where} failed and is left out: {trajectory.failed[at.words]}", file=sys.stderr)
    gc.collect()  # the model is part of cycles, and the next one needs the room
