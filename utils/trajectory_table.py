"""Trajectories as files: trajectory.json with every number, trajectory.md with those that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from utils.report_columns import Column, columns_of, read_shown
from utils.report_table import MISSING, markdown_rows, markdown_text
from utils.trajectory import Evaluated, Trajectory


def shared_words(trajectories: Sequence[Trajectory]) -> str:
    """Model, benchmark, split, data and compat of the evaluations; more than one value is listed."""
    keys = {"model": "model.name", "benchmark": "benchmark.name", "split": "split", "data_root": "data_root", "compat": "compat"}
    values = {name: dict.fromkeys(str(OmegaConf.select(t.cfg, key)) for t in trajectories) for name, key in keys.items()}
    return "Settings: " + ", ".join(f"{name} {' and '.join(found)}" for name, found in values.items()) + "."


def columns(trajectories: Sequence[Trajectory], metrics: Sequence[str] = ()) -> list[Column]:
    """What is shown: the named metrics, else those that a report of the benchmark shows."""
    benchmark = trajectories[0].benchmark
    measured = list(dict.fromkeys(name for trajectory in trajectories for name in trajectory.measured))
    declared = {column.metric: column for column in read_shown(benchmark).columns}
    chosen = [declared.get(name, Column(name, name, scale="free")) for name in metrics]
    return chosen or columns_of(benchmark, measured)


def to_json(trajectories: Sequence[Trajectory], command: str) -> dict[str, Any]:
    """The content of trajectory.json: for each run its steps, and of every metric value, n and ci95 in the same order."""
    return {"command": command, "runs": [_run_json(trajectory) for trajectory in trajectories]}


def to_markdown(trajectories: Sequence[Trajectory], shown: Sequence[Column], command: str) -> str:
    """The content of trajectory.md: a table for each run, a row for each step."""
    lines = ["# Trajectory", ""]
    for trajectory in trajectories:
        rows = [["step", *(markdown_text(column.header) for column in shown)]]
        for found in trajectory.evaluated:
            name = f"{found.point.step} (finished)" if found.point.made else str(found.point.step)
            rows.append([name, *(_cell(found, column) for column in shown)])
        lines += [f"## {markdown_text(trajectory.label)}", "", *markdown_rows(rows), ""]
        lines += [f"- {words}: {markdown_text(why)}" for words, why in trajectory.failed.items()]
        lines += [""] if trajectory.failed else []
    names = "; ".join(f"{column.name} = {column.meaning}" for column in shown if column.meaning)
    lines += [f"value [95 % interval over questions]. {MISSING}: not measured. {names}".rstrip() + ("." if names else "")]
    return "\n".join([*lines, "", f"{markdown_text(shared_words(trajectories))} Made with `{command}`", ""])


def _run_json(trajectory: Trajectory) -> dict[str, Any]:
    found = trajectory.evaluated
    numbers = {name: [one.metrics.get(name) for one in found] for name in trajectory.measured}
    return {
        "run": str(trajectory.run),
        "label": trajectory.label,
        "benchmark": trajectory.benchmark,
        "steps": [one.point.step for one in found],
        "finished": [one.point.made for one in found],
        "models": [one.point.model for one in found],
        "evaluations": [str(one.folder) for one in found],
        "metrics": {
            name: {
                "value": [None if number is None else number.value for number in row],
                "n": [None if number is None else number.n for number in row],
                "ci95": [None if number is None or number.interval is None else list(number.interval) for number in row],
                "definition": next(number.definition for number in row if number is not None),
            }
            for name, row in numbers.items()
        },
        "failed": trajectory.failed,
    }


def _cell(found: Evaluated, column: Column) -> str:
    number = found.metrics.get(column.metric)
    return MISSING if number is None else f"{column.show(number.value)} {column.show_interval(number.interval)}".rstrip()
