"""trajectory.html: one small picture per metric, a line with its interval band per run, and the numbers below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from utils.report.charts import Axis, axis_ends, line, nice_ticks, picture, text, ticks
from utils.report.columns import Column, columns_of, read_shown
from utils.report.markup import Html, element, join
from utils.report.page import whole_page
from utils.report.read import Number
from utils.report.scatter import SIGNIFICANCE
from utils.report.table import MISSING, markdown_rows, markdown_text
from utils.report.trajectory import Evaluated, Trajectory

WIDTH, HEIGHT = 350.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 8.0, 34.0
COLOURS = ("method", "target", "oracle", "part0", "part1", "part2")  # of report.css; further runs get them again, dashed
DASHES = ("none", "5 3", "2 2")
MORE_STYLE = """
.way { width: 100%; height: auto; }
.way polyline, .line { fill: none; stroke-width: 1.8; }
.band { stroke: none; opacity: .16; }
.dot { stroke: var(--card); stroke-width: 1; }
td.number small { display: block; }
""" + "".join(
    f".line{k} {{ stroke: var(--{COLOURS[k % len(COLOURS)]}); stroke-dasharray: {DASHES[k // len(COLOURS)]}; }}\n"
    f".fill{k} {{ fill: var(--{COLOURS[k % len(COLOURS)]}); }}\n"
    for k in range(len(COLOURS) * len(DASHES))
)


def page(trajectories: Sequence[Trajectory], shown: Sequence[Column], command: str) -> str:
    """The whole page."""
    title = "Trajectory of " + ", ".join(trajectory.label for trajectory in trajectories)
    panels = [
        element("figure", {}, element("figcaption", {}, _caption(column)), drawn)
        for column in shown
        if (drawn := plot(trajectories, column)) is not None
    ]
    body = [
        element("h1", {}, title),
        element("p", {"class": "lead"}, _lead(trajectories)),
        element("p", {"class": "keys"}, join([_key(k, t.label) for k, t in enumerate(trajectories)], " ")),
        element("div", {"class": "panels"}, *panels),
        element("p", {"class": "note"}, _reading(trajectories)),
        *(part for trajectory in trajectories for part in _numbers(trajectory, shown)),
        element("footer", {}, shared_words(trajectories), " Made with ", element("code", {}, command)),
    ]
    return whole_page(title, body, MORE_STYLE)


def plot(trajectories: Sequence[Trajectory], column: Column) -> Html | None:
    """One metric of all runs against the optimizer step; None if no run has a number to draw."""
    series = [[pair for found in t.evaluated if (pair := _drawable(found, column))] for t in trajectories]
    pairs = [pair for one in series for pair in one]
    if not pairs:
        return None
    x, y = _axes([found for found, _ in pairs], [number for _, number in pairs], column)
    parts = _frame(x, y, column)
    for k, one in enumerate(series):
        parts += _band(k, one, x, y, column)
    for k, one in enumerate(series):
        parts += _line(k, one, x, y, column)
    return picture(WIDTH, HEIGHT, f"{column.words} against the optimizer step", "way", parts)


def _drawable(found: Evaluated, column: Column) -> tuple[Evaluated, Number] | None:
    number = found.metrics.get(column.metric)
    return (found, number) if number is not None and math.isfinite(number.value) else None


def _axes(found: Sequence[Evaluated], numbers: Sequence[Number], column: Column) -> tuple[Axis, Axis]:
    """Both axes. The interval of a p-value may reach down to nothing and is cut off; others are inside."""
    steps = [one.point.step for one in found]
    values = [number.value for number in numbers]
    if not column.is_p_value:
        values += [end for number in numbers if number.interval for end in number.interval if math.isfinite(end)]
    room = 0.03 * (max(steps) - min(steps)) or 0.5
    x = Axis(min(steps) - room, max(steps) + room, LEFT, WIDTH - RIGHT)
    # Bands tell which differences are small, so the axis may be short.
    return x, Axis(*axis_ends(column, [column.place(value) for value in values], least=0.002), HEIGHT - BOTTOM, TOP)


def _frame(x: Axis, y: Axis, column: Column) -> list[Html]:
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


def _band(k: int, one: Sequence[tuple[Evaluated, Number]], x: Axis, y: Axis, column: Column) -> list[Html]:
    """The intervals of neighbouring steps as one area."""
    inside = [(f.point.step, number.interval) for f, number in one if number.interval and not f.point.made]
    if len(inside) < 2:
        return []
    low = [(x(step), y(column.place(interval[0]))) for step, interval in inside]
    high = [(x(step), y(column.place(interval[1]))) for step, interval in inside]
    return [element("polygon", {"points": _path([*low, *reversed(high)]), "class": f"band {_class('fill', k)}"})]


def _line(k: int, one: Sequence[tuple[Evaluated, Number]], x: Axis, y: Axis, column: Column) -> list[Html]:
    """Line and dots; what was made at the end is a square apart, with its interval as a whisker."""
    steps = [(x(f.point.step), y(column.place(number.value))) for f, number in one if not f.point.made]
    parts = [element("polyline", {"points": _path(steps), "class": _class("line", k)})] if len(steps) > 1 else []
    for found, number in one:
        across, up = x(found.point.step), y(column.place(number.value))
        told = element("title", {}, f"{found.point.words}: {column.show(number.value)} {column.show_interval(number.interval)}")
        kind = {"class": f"dot {_class('fill', k)}"}
        if not found.point.made:
            parts.append(element("circle", {"cx": across, "cy": up, "r": 3, **kind}, told))
            continue
        if number.interval:
            ends = [y(column.place(end)) for end in number.interval]
            parts.append(line(across, ends[0], across, ends[1], _class("line", k)))
        parts.append(element("rect", {"x": across - 4.5, "y": up - 4.5, "width": 9, "height": 9, **kind}, told))
    return parts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def _class(kind: str, k: int) -> str:
    return f"{kind}{k % (len(COLOURS) * len(DASHES))}"


def _key(k: int, label: str) -> Html:
    kind = {"viewBox": "0 0 24 14", "aria-hidden": "true", "class": "sign", "style": "width: 24px"}
    sample = element("line", {"x1": 1, "y1": 7, "x2": 23, "y2": 7, "class": f"line {_class('line', k)}"})
    dot = element("circle", {"cx": 12, "cy": 7, "r": 3, "class": f"dot {_class('fill', k)}"})
    return element("span", {"class": "key"}, join([element("svg", kind, sample, dot), label], " "))


def _caption(column: Column) -> Html:
    return join([column.header, element("small", {}, f" {column.meaning}")]) if column.meaning else Html(column.header)


def _lead(trajectories: Sequence[Trajectory]) -> str:
    ways = []
    for t in trajectories:
        steps = [found.point.step for found in t.evaluated]
        ways.append(f"{t.label} from step {min(steps)} to {max(steps)} ({len(steps)} models)")
    return ", ".join(ways) + "."


def _reading(trajectories: Sequence[Trajectory]) -> str:
    words = "Bands: 95 % intervals over questions. Every picture has its own scale."
    if any(found.point.made for t in trajectories for found in t.evaluated):
        words += " Squares: the finished model, which the method made of what it had trained up to there."
    return words


def _numbers(trajectory: Trajectory, shown: Sequence[Column]) -> list[Html]:
    """The table of one run, and what of it failed."""
    heads = [element("th", {"scope": "col"}, "step")]
    heads += [element("th", {"scope": "col", "class": "number nowrap"}, column.header) for column in shown]
    rows = []
    for found in trajectory.evaluated:
        cells = [_cell(found.metrics.get(column.metric), column) for column in shown]
        name = join([str(found.point.step), element("small", {}, "finished" if found.point.made else "")])
        rows.append(element("tr", {}, element("th", {"scope": "row"}, name), *cells))
    table = element("table", {}, element("thead", {}, element("tr", {}, *heads)), element("tbody", {}, *rows))
    lost = [element("li", {}, element("b", {}, words), f": {why}") for words, why in trajectory.failed.items()]
    title = element("h2", {}, trajectory.label)
    scroll = element("div", {"class": "scroll", "tabindex": "0"}, table)
    return [title, scroll, *([element("ul", {"class": "note"}, *lost)] if lost else [])]


def _cell(number: Number | None, column: Column) -> Html:
    if number is None:
        return element("td", {"class": "number missing"}, MISSING)
    interval = element("small", {}, column.show_interval(number.interval))
    return element("td", {"class": "number"}, column.show(number.value), interval)


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
            rows.append([name, *(_shown(found, column) for column in shown)])
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


def _shown(found: Evaluated, column: Column) -> str:
    number = found.metrics.get(column.metric)
    return MISSING if number is None else f"{column.show(number.value)} {column.show_interval(number.interval)}".rstrip()
