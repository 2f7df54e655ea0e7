"""trajectory.html: one small picture per metric, a line with its interval band per run, and the numbers below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from omegaconf import OmegaConf

from utils.report.charts import Axis, axis_ends, line, nice_ticks, path, picture, shape, text, ticks
from utils.report.columns import SIGNIFICANCE, Column, columns_of, read_display
from utils.report.markdown import MISSING, escape, table
from utils.report.page import render
from utils.report.read import Estimate
from utils.report.table import estimate_cell, meanings
from utils.report.trajectory import EvaluatedModel, Trajectory

WIDTH, HEIGHT = 350.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 8.0, 34.0
COLOURS = ("method", "target", "oracle", "part0", "part1", "part2")  # of report.css; further runs get them again, dashed
STYLES = [(colour, dashes) for dashes in ("none", "5 3", "2 2") for colour in COLOURS]

Series = Sequence[tuple[EvaluatedModel, Estimate]]  # of one run and metric, what can be drawn


def page(trajectories: Sequence[Trajectory], columns: Sequence[Column], command: str) -> str:
    """The whole page."""
    return render(
        "trajectory.html",
        title="Trajectory of " + ", ".join(trajectory.label for trajectory in trajectories),
        styles=STYLES,
        trajectories=trajectories,
        legend=[(_sign(k), trajectory.label) for k, trajectory in enumerate(trajectories)],
        columns=columns,
        panels=[(column, drawn) for column in columns if (drawn := plot(trajectories, column)) is not None],
        squares=any(model.at.finished for trajectory in trajectories for model in trajectory.evaluated),
        settings=shared_words(trajectories),
        command=command,
    )


def plot(trajectories: Sequence[Trajectory], column: Column) -> Markup | None:
    """One metric of all runs against the optimizer step; None if no run has a number to draw."""
    series = [_drawable(trajectory, column) for trajectory in trajectories]
    if not any(series):
        return None
    aim = oracle_value(trajectories, column.metric)
    x, y = _axes([pair for one in series for pair in one], column, aim)
    parts = _frame(x, y, column)
    if aim is not None and not column.is_p_value:
        level = y(column.place(aim))
        parts += [
            line(x.start, level, x.end, level, "level"),
            text(x.end, level - 4, f"oracle {column.show(aim)}", "note", "end"),
        ]
    for k, one in enumerate(series):
        parts += _band(k, one, x, y, column)
    for k, one in enumerate(series):
        parts += _line(k, one, x, y, column)
    return picture(WIDTH, HEIGHT, f"{column.words} against the optimizer step", "way", parts)


def oracle_value(trajectories: Sequence[Trajectory], metric: str) -> float | None:
    """What the retain oracle has, if it is known and one for all runs. An oracle compared with itself passes any test."""
    values = {estimate.value for t in trajectories if (estimate := t.oracle.get(metric)) is not None}
    return values.pop() if len(values) == 1 else None


def _drawable(trajectory: Trajectory, column: Column) -> Series:
    pairs = [(model, model.metrics.get(column.metric)) for model in trajectory.evaluated]
    return [(model, estimate) for model, estimate in pairs if estimate is not None and math.isfinite(estimate.value)]


def _axes(pairs: Series, column: Column, aim: float | None) -> tuple[Axis, Axis]:
    """Both axes. aim: the oracle's value, which is inside; so are intervals, but that of a p-value may reach down to nothing."""
    steps = [model.at.step for model, _ in pairs]
    values = [estimate.value for _, estimate in pairs]
    if not column.is_p_value:
        values += [] if aim is None else [aim]
        values += [end for _, estimate in pairs for end in estimate.interval or () if math.isfinite(end)]
    room = 0.03 * (max(steps) - min(steps)) or 0.5
    x = Axis(min(steps) - room, max(steps) + room, LEFT, WIDTH - RIGHT)
    # Bands tell which differences are small, so the axis may be short.
    return x, Axis(*axis_ends(column, [column.place(value) for value in values], least=0.002), HEIGHT - BOTTOM, TOP)


def _frame(x: Axis, y: Axis, column: Column) -> list[Markup]:
    parts = []
    for tick, words in ticks(column, y.low, y.high):
        parts += [line(x.start, y(tick), x.end, y(tick), "grid"), text(LEFT - 6, y(tick) + 3.5, words, anchor="end")]
    for tick in nice_ticks(x.low, x.high):
        if tick == int(tick) and tick >= 0:
            parts.append(text(x(tick), HEIGHT - BOTTOM + 15, f"{tick:g}", anchor="middle"))
    parts.append(text(x.end, HEIGHT - 4, "optimizer step", anchor="end"))
    if column.is_p_value:
        level = y(column.place(SIGNIFICANCE))
        parts += [line(x.start, level, x.end, level, "level"), text(x.start + 4, level - 4, f"p = {SIGNIFICANCE:g}", "note")]
    return parts


def _band(k: int, series: Series, x: Axis, y: Axis, column: Column) -> list[Markup]:
    """The intervals of neighbouring steps as one area."""
    inside = [(model.at.step, estimate.interval) for model, estimate in series if estimate.interval and not model.at.finished]
    if len(inside) < 2:
        return []
    low, high = ([(x(step), y(column.place(interval[end]))) for step, interval in inside] for end in (0, 1))
    return [shape("polygon", points=path([*low, *reversed(high)]), kind=f"band {_style('fill', k)}")]


def _line(k: int, series: Series, x: Axis, y: Axis, column: Column) -> list[Markup]:
    """Line and dots; what was made at the end is a square apart, with its interval as a whisker."""
    steps = [(x(model.at.step), y(column.place(estimate.value))) for model, estimate in series if not model.at.finished]
    parts = [shape("polyline", points=path(steps), kind=_style("line", k))] if len(steps) > 1 else []
    for model, estimate in series:
        across, up = x(model.at.step), y(column.place(estimate.value))
        told = shape("title", f"{model.at.words}: {column.show(estimate.value)} {column.show_interval(estimate.interval)}")
        kind = f"dot {_style('fill', k)}"
        if not model.at.finished:
            parts.append(shape("circle", told, cx=across, cy=up, r=3, kind=kind))
            continue
        if estimate.interval:
            ends = [y(column.place(end)) for end in estimate.interval]
            parts.append(line(across, ends[0], across, ends[1], _style("line", k)))
        parts.append(shape("rect", told, x=across - 4.5, y=up - 4.5, width=9, height=9, kind=kind))
    return parts


def _style(kind: str, k: int) -> str:
    return f"{kind}{k % len(STYLES)}"


def _sign(k: int) -> Markup:
    """Line and dot of a run, for the legend."""
    dot = shape("circle", cx=12, cy=7, r=3, kind=f"dot {_style('fill', k)}")
    return shape("svg", line(1, 7, 23, 7, f"line {_style('line', k)}"), dot, viewBox="0 0 24 14", aria_hidden="true", kind="sign")


def shared_words(trajectories: Sequence[Trajectory]) -> str:
    """Model, benchmark, split, data and compat of the evaluations; more than one value is listed."""
    keys = {"model": "model.name", "benchmark": "benchmark.name", "split": "split", "data_root": "data_root", "compat": "compat"}
    values = {name: dict.fromkeys(str(OmegaConf.select(t.cfg, key)) for t in trajectories) for name, key in keys.items()}
    return "Settings: " + ", ".join(f"{name} {' and '.join(several)}" for name, several in values.items()) + "."


def columns(trajectories: Sequence[Trajectory], metrics: Sequence[str] = ()) -> list[Column]:
    """What is shown: the named metrics, else those that a report of the benchmark shows."""
    benchmark = trajectories[0].benchmark
    measured = list(dict.fromkeys(name for trajectory in trajectories for name in trajectory.measured))
    declared = {column.metric: column for column in read_display(benchmark).columns}
    chosen = [declared.get(name, Column(name, name, scale="free")) for name in metrics]
    return chosen or columns_of(benchmark, measured)


def to_json(trajectories: Sequence[Trajectory], command: str) -> dict[str, Any]:
    """The content of trajectory.json: for each run its steps, and of every metric value, n and ci95 in the same order."""
    return {"command": command, "runs": [_run_json(trajectory) for trajectory in trajectories]}


def to_markdown(trajectories: Sequence[Trajectory], columns: Sequence[Column], command: str) -> str:
    """The content of trajectory.md: a table for each run, a row for each step."""
    lines = ["# Trajectory", ""]
    for trajectory in trajectories:
        rows = [
            [f"{model.at.step}{' (finished)' if model.at.finished else ''}", *(estimate_cell(model.metrics, c) for c in columns)]
            for model in trajectory.evaluated
        ]
        lines += [f"## {escape(trajectory.label)}", "", table(["step", *(column.header for column in columns)], rows), ""]
        lines += [f"- {words}: {escape(why)}" for words, why in trajectory.failed.items()]
        lines += [""] if trajectory.failed else []
    names = meanings(columns)
    reading = f"value [95 % interval over questions]. {MISSING}: not measured." + (f" {names}." if names else "")
    return "\n".join([*lines, escape(reading), "", f"{escape(shared_words(trajectories))} Made with `{command}`", ""])


def _run_json(trajectory: Trajectory) -> dict[str, Any]:
    models = trajectory.evaluated
    rows = {name: [model.metrics.get(name) for model in models] for name in trajectory.measured}
    return {
        "run": str(trajectory.run),
        "label": trajectory.label,
        "benchmark": trajectory.benchmark,
        "steps": trajectory.steps,
        "finished": [model.at.finished for model in models],
        "models": [model.at.model for model in models],
        "evaluations": [str(model.folder) for model in models],
        "metrics": {
            name: {
                "value": [None if estimate is None else estimate.value for estimate in row],
                "n": [None if estimate is None else estimate.n for estimate in row],
                "ci95": [None if estimate is None or estimate.interval is None else list(estimate.interval) for estimate in row],
                "definition": next(estimate.definition for estimate in row if estimate is not None),
            }
            for name, row in rows.items()
        },
        "failed": trajectory.failed,
    }
