"""The last lines of a run: where its model or its numbers are, and the command that comes next, ready to be pasted.

Settings follow the weights, so that command names little more than folders.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.distributed import is_main
from utils.files import flat_settings, read_json
from utils.runs.lineage import Origin
from utils.runs.terminal.dials import ConfigFile

if TYPE_CHECKING:
    from utils.items.benchmark import Benchmark


def after_training(folder: Path, benchmark: Benchmark) -> list[str]:
    """Lines for a finished run of finetune.py or unlearn.py."""
    origin = Origin.of(folder)
    if origin is None:
        return []
    lines = [f"model: {folder / 'model'}"]
    if origin.capsule.get("role") == "target":
        return [*lines, f"next: {_unlearn(folder, benchmark)}"]
    split = _forgotten(origin, benchmark)
    if origin.capsule.get("role") == "oracle":
        return lines if split is None else [*lines, f"next: {evaluate_command(folder, split=split)}"]
    return [*lines, *_evaluate(origin, benchmark, split)]


def after_evaluation(folder: Path) -> list[str]:
    """Lines for a finished run of evaluate.py."""
    within = (folder.parent / "run.json").is_file()
    lines = [f"numbers: {folder / 'metrics.json'}"]
    if within and folder.name != "eval":
        return lines  # a further one, which no report shows
    reported = folder.parent.parent if within else folder.parent
    return [*lines, f"next: {shlex.join(['python', 'scripts/report.py', str(reported)])}"]


def evaluate_command(run: Path, oracle: str | None = None, split: str | None = None) -> str:
    """Evaluates the model of a run folder as that run read it. oracle: what it is compared with, `none` for nothing."""
    words = {"model.path": str(run), "split": split, "oracle": oracle, "out": str(run / "eval")}
    return _command("evaluate", {key: value for key, value in words.items() if value is not None})


def say(lines: Iterable[str]) -> None:
    """Prints them, on the main process."""
    for line in lines if is_main() else ():
        print(line)


def _unlearn(target: Path, benchmark: Benchmark) -> str:
    method = ConfigFile("unlearn").dials()["method"].default
    split = benchmark.split
    out = target.parent / f"{method}_{split}"
    words = {"method": method, "model.path": str(target), "split": split}
    return _command("unlearn", words if out.exists() else {**words, "out": str(out)})


def _evaluate(origin: Origin, benchmark: Benchmark, split: str | None) -> list[str]:
    """The evaluation of what unlearned, with the retain oracle that lies near; else what to do to have one."""
    from utils.items.benchmark import Benchmark  # with SciPy, which the report, who names commands too, does without

    run = origin.folder
    if split is None or type(benchmark).oracle_requests is Benchmark.oracle_requests:
        return [f"next: {evaluate_command(run)}"]
    wanted = benchmark.oracle_split(split)
    if (oracle := _oracle_near(origin, wanted)) is not None:
        return [f"next: {evaluate_command(run, str(oracle))}"]
    if not benchmark.needs_oracle:
        return [f"next: {evaluate_command(run)}"]
    lines = [f"next: {evaluate_command(run, 'none')}"]
    if (made := _make_oracle(origin, wanted)) is not None:
        lines += [f"or, compared with a retain oracle: {made[0]} && {evaluate_command(run, str(made[1]))}"]
    return lines


def _forgotten(origin: Origin, benchmark: Benchmark) -> str | None:
    """The forget split that a run is about; None where none goes with what it learned."""
    split = str(origin.settings.get("split"))
    if origin.capsule["script"] == "unlearn":
        return split
    before = [run.settings.get("split") for run in origin.line() if run.capsule["script"] == "unlearn"]
    if before:
        return str(before[0])
    return next((forget for forget in benchmark.forget_splits if benchmark.oracle_split(forget) == split), None)


def _oracle_near(origin: Origin, split: str) -> Path | None:
    """A finished retain oracle beside the run, or beside one that its model came from: of this model, benchmark and split."""
    wanted = _subject(origin.settings) | {"split": split}
    for folder in dict.fromkeys(run.folder.parent for run in origin.line()):
        for path in sorted(folder.glob("*/run.json")):
            capsule = read_json(path) or {}
            if capsule.get("role") == "oracle" and capsule.get("status") == "finished":
                if _subject(capsule["settings"]) == wanted:
                    return path.parent
    return None


def _subject(settings: Mapping[str, Any]) -> dict[str, object]:
    """Which model learned what; the benchmark with its options, of which some name other data."""
    return {"model": settings["model"]["name"], "benchmark": settings["benchmark"], "split": settings["split"]}


def _make_oracle(origin: Origin, split: str) -> tuple[str, Path] | None:
    """The command that made the target, with another split, and where it leads; for a target that no run here made, one that
    starts from the base model. None for a target that learned something else, or in a sweep."""
    target = next((run for run in origin.line() if run.capsule["script"] == "finetune"), None)
    out = (target or origin).folder.parent / split
    if target is None:
        words = {**_chosen(origin.settings), "split": split, "out": str(out)}
        return _command("finetune", words), out
    said = target.capsule.get("command", [])[1:]
    if target.settings["benchmark"] != origin.settings["benchmark"] or any(word.startswith("-") for word in said):
        return None
    kept = [word for word in said if word.partition("=")[0] not in ("split", "out", "overwrite", "resume")]
    return shlex.join(["python", "finetune.py", *kept, f"split={split}", f"out={out}"]), out


def _chosen(settings: Mapping[str, Any]) -> dict[str, str]:
    """Model and benchmark of a run, where its data are, and options of the benchmark that are not as its file has them."""
    chosen = {group: str(settings[group]["name"]) for group in ("model", "benchmark")}
    now = flat_settings({"benchmark": settings["benchmark"]})
    for key, dial in ConfigFile(f"benchmark/{chosen['benchmark']}").dials().items():
        value = now.get(key)
        if isinstance(value, str | int | float) and "${" not in dial.default and dial.value != value:
            chosen[key] = str(value).lower() if isinstance(value, bool) else str(value)
    if settings["data_root"] != settings["model"]["data_root"]:
        chosen["data_root"] = str(settings["data_root"])
    return chosen


def _command(script: str, words: Mapping[str, str]) -> str:
    return shlex.join(["python", f"{script}.py", *(f"{key}={value}" for key, value in words.items())])
