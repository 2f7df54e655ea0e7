"""One metric against another as inline SVG, as forget quality against model utility: each run labelled, labels kept apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from utils.report.charts import FONT, LETTER, Axis, axis_ends, axis_words, line, mark, picture, shape, text, ticks
from utils.report.columns import SIGNIFICANCE, Column
from utils.report.read import Role

# Where an axis says that more (or less) is better.
_ACROSS = {"high": "{} →", "low": "← {}"}
_UP = {"high": "↑ {}", "low": "↓ {}"}
_DIRECTIONS = [(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(16)]

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class LabelledPoint:
    """One run: its two numbers, with their intervals if they are known and to be drawn."""

    label: str
    role: Role
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Label:
    """Where a label goes: the left end of its baseline, and whether a leader line is needed."""

    x: float
    y: float
    far: bool


def scatter(points: Sequence[LabelledPoint], width: float, height: float, across: Column, up: Column) -> Markup:
    """The chart, `width` x `height` units. Raises ValueError without points."""
    if not points:
        raise ValueError("scatter: there is no run with both numbers; leave the chart out.")
    x = Axis(*axis_ends(across, [across.place(point.x) for point in points]), 46, width - 12)
    y = Axis(*axis_ends(up, [up.place(point.y) for point in points]), height - 40, 18)
    threshold, notes = _significance(x, y) if up.is_p_value else ([], [])
    parts = [*threshold, *_frame(x, y, across, up)]
    centres = [(x(across.place(point.x)), y(up.place(point.y))) for point in points]
    for point, (right, down) in zip(points, centres, strict=True):
        if point.x_interval is not None:
            ends = [x(across.place(value)) for value in point.x_interval]
            parts.append(line(ends[0], down, ends[1], down, f"whisker {point.role}"))
        if point.y_interval is not None:
            ends = [y(up.place(value)) for value in point.y_interval]
            parts.append(line(right, ends[0], right, ends[1], f"whisker {point.role}"))
    labels = place_labels(centres, [point.label for point in points], (x.start, y.end, width - 4, y.start), notes)
    for point, centre, label in zip(points, centres, labels, strict=True):
        if label.far:
            end = label.x + _text_width(point.label) if label.x < centre[0] else label.x
            parts.append(line(*centre, end, label.y - FONT * 0.35, "leader"))
    parts += [mark(*centre, point.role) for point, centre in zip(points, centres, strict=True)]
    parts += [text(label.x, label.y, p.label, f"label {p.role}") for p, label in zip(points, labels, strict=True)]
    title = f"{axis_words(up)} against {axis_words(across)}, one mark per run"
    return picture(width, height, title, "scatter", parts)


def place_labels(
    centres: Sequence[tuple[float, float]], labels: Sequence[str], bounds: Box, blocked: Sequence[Box] = ()
) -> list[Label]:
    """A place near each mark that touches no mark, no earlier label and nothing blocked, as far as there is one."""
    taken = [*blocked, *((a - 7, b - 7, a + 7, b + 7) for a, b in centres)]
    placed: dict[int, Label] = {}
    for index in sorted(range(len(centres)), key=lambda k: (centres[k], k)):
        options = _options(centres[index], _text_width(labels[index]))
        costs = [reach + _clash(box, taken) + 40 * _outside(box, bounds) for reach, box in options]
        best = options[costs.index(min(costs))]
        taken.append(best[1])
        placed[index] = Label(best[1][0], best[1][3] - 3, best[0] > 20)
    return [placed[index] for index in range(len(centres))]


def _options(centre: tuple[float, float], wide: float) -> list[tuple[float, Box]]:
    """(cost of the distance, box) of places around a mark, the right-hand ones first."""
    options = []
    for reach in (11, 22, 34, 48, 64, 82, 102):
        for dx, dy in _DIRECTIONS:
            left = centre[0] + dx * reach - (wide if dx < -0.3 else wide / 2 if dx < 0.3 else 0.0)
            middle = centre[1] + dy * reach
            box = (left, middle - FONT / 2 - 2, left + wide, middle + FONT / 2 + 2)
            options.append((reach + 2 * abs(dy) + (1.5 if dx < 0 else 0.0), box))
    return options


def overlap(first: Box, second: Box) -> float:
    """Area that two boxes share."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    return max(across, 0.0) * max(down, 0.0)


def _clash(box: Box, taken: Sequence[Box]) -> float:
    """Cost of what a box would cover: a touch is worse than any distance, more is worse."""
    return sum(120 + 4 * shared for other in taken if (shared := overlap(box, other)) > 0)


def _outside(box: Box, bounds: Box) -> float:
    over = (bounds[0] - box[0], bounds[1] - box[1], box[2] - bounds[2], box[3] - bounds[3])
    return sum(max(part, 0.0) for part in over)


def _text_width(label: str) -> float:
    return len(label) * FONT * LETTER + 2


def _frame(x: Axis, y: Axis, across: Column, up: Column) -> list[Markup]:
    parts = []
    for tick, shown in ticks(across, x.low, x.high, 8 if x.end > 500 else 4):
        parts.append(line(x(tick), y.start, x(tick), y.end, "grid"))
        parts.append(text(x(tick), y.start + 15, shown, anchor="middle"))
    for tick, shown in ticks(up, y.low, y.high):
        parts.append(line(x.start, y(tick), x.end, y(tick), "grid"))
        parts.append(text(40, y(tick) + 4, shown, anchor="end"))
    parts.append(text(x.end, y.start + 32, _ACROSS.get(across.better, "{}").format(axis_words(across)), "axis", "end"))
    parts.append(text(4, 10, _UP.get(up.better, "{}").format(axis_words(up)), "axis"))
    return parts


def _significance(x: Axis, y: Axis) -> tuple[list[Markup], list[Box]]:
    """The line p = 0.05 and a tint over what lies above it; with them the places that the words take."""
    level = y(math.log10(SIGNIFICANCE))
    words = f"p = {SIGNIFICANCE:g}"
    right = x.end - 4
    parts = [
        shape("rect", x=x.start, y=y.end, width=x.end - x.start, height=level - y.end, kind="pass"),
        line(x.start, level, x.end, level, "level"),
        text(right, level + 13, words, "note", "end"),
    ]
    return parts, [(right - _text_width(words), level + 2, right, level + 16)]
