"""Small charts as inline SVG: a strip for a table cell, and training curves. templates/report.css holds the colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from utils.report.columns import SCALES, Column
from utils.report.read import Role

FONT = 11.0
LETTER = 0.6  # width of a letter in units of its height: generous, since fonts differ between machines
LONGEST = 240  # points of a drawn curve
LEAST_P = -2.0  # p-values are drawn down to 0.01 at least, so that 0.05 is inside
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] linearly to [start, end]; values outside stop at the border."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Curve:
    """One line: steps and values of equal length, all finite. `strong`: the loss, drawn over its parts."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    strong: bool = False


def shape(tag: str, *content: str, **attributes: str | float) -> Markup:
    """`<tag attributes>content</tag>`, text escaped and numbers rounded to 0.01. kind -> class, text_anchor -> text-anchor."""
    written = Markup("")
    for key, value in attributes.items():
        name = "class" if key == "kind" else key.replace("_", "-")
        written += Markup(' {}="{}"').format(name, value if isinstance(value, str) else f"{round(value, 2):g}")
    return Markup("<{0}{1}>{2}</{0}>").format(tag, written, Markup("").join(content))


def text(x: float, y: float, content: str, kind: str = "tick", anchor: str = "start") -> Markup:
    """A line of text whose baseline starts, ends or is centred (`middle`) at (x, y)."""
    return shape("text", content, x=x, y=y, kind=kind, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return shape("line", x1=x1, y1=y1, x2=x2, y2=y2, kind=kind)


def path(points: Sequence[tuple[float, float]]) -> str:
    """The corners of a polyline or polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def picture(width: float, height: float, title: str, kind: str, parts: Sequence[str]) -> Markup:
    """An `<svg>` that a screen reader announces by its title."""
    return shape("svg", *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=title, kind=kind)


def mark(x: float, y: float, role: Role, size: float = 5.0) -> Markup:
    """Target: an open diamond; oracle: an open square; method: a disc; others: an open triangle. Shape and colour tell it."""
    kind = f"mark {role}"
    if role == "method":
        return shape("circle", cx=x, cy=y, r=size, kind=kind)
    if role == "oracle":
        return shape("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, kind=kind)
    if role != "target":
        return shape("polygon", points=path([(x, y - size), (x + size, y + size), (x - size, y + size)]), kind=kind)
    d = size * 1.35
    return shape("polygon", points=path([(x, y - d), (x + d, y), (x, y + d), (x - d, y)]), kind=kind)


def sign(role: Role) -> Markup:
    """The mark of a role, for a legend."""
    return shape("svg", mark(7, 7, role, 4), viewBox="0 0 14 14", aria_hidden="true", kind="sign")


def strip(value: float, interval: Sequence[float], span: tuple[float, float], beside: Mapping[Role, float], role: Role) -> Markup:
    """A value and its interval (empty: none) on the line `span`, with ticks where runs of other roles lie. 84 x 14."""
    axis = Axis(*span, 6.0, 78.0)
    parts = [line(6, 7, 78, 7, "base")]
    if interval:
        parts.append(line(axis(interval[0]), 7, axis(interval[1]), 7, f"interval {role}"))
    for other, place in beside.items():
        if other != role:
            parts.append(line(axis(place), 1, axis(place), 13, f"beside {other}"))
    if not math.isnan(value):
        parts.append(mark(axis(value), 7, role, 3.2))
    return shape("svg", *parts, viewBox="0 0 84 14", aria_hidden="true", kind="strip")


def shorten(curve: Curve) -> Curve:
    """The curve as means over equally long runs of neighbours, at most LONGEST points."""
    width = math.ceil(len(curve.steps) / LONGEST)
    if width <= 1:
        return curve
    chunks = range(0, len(curve.steps), width)
    steps, values = (
        [sum(part) / len(part) for part in (numbers[k : k + width] for k in chunks)] for numbers in (curve.steps, curve.values)
    )
    return Curve(curve.name, steps, values, curve.strong)


def curves(title: str, lines: Sequence[Curve], width: float = 350, height: float = 190) -> Markup:
    """Values against steps, one labelled line each; the strong ones on top. Raises ValueError without any point."""
    drawn = sorted((shorten(curve) for curve in lines if curve.steps), key=lambda curve: curve.strong)
    if not drawn:
        raise ValueError(f"{title}: there is no point to draw; pass at least one curve with a step.")
    steps = [step for curve in drawn for step in curve.steps]
    values = [value for curve in drawn for value in curve.values]
    names = max(len(curve.name) for curve in drawn)
    right = width - min(names * FONT * LETTER + 14, width * 0.42)
    x = Axis(*_spread(min(steps), max(steps), 0.0), 44, right)
    y = Axis(*_spread(min(values), max(values), 0.06), height - 26, 8)
    parts = []
    for tick in nice_ticks(y.low, y.high):
        parts += [line(x.start, y(tick), right, y(tick), "grid"), text(38, y(tick) + 3.5, f"{tick:.4g}", anchor="end")]
    for tick in nice_ticks(x.low, x.high):
        parts.append(text(x(tick), height - 10, f"{tick:g}", anchor="middle"))
    parts.append(text(right + 16, height - 10, "step"))
    for index, curve in enumerate(drawn):
        points = [(x(step), y(value)) for step, value in zip(curve.steps, curve.values, strict=True)]
        parts.append(shape("polyline", points=path(points), kind=_kind(index, curve)))
    # The curves' names beside their ends, moved apart where they would touch.
    wanted = sorted((y(curve.values[-1]) + 3.5, index) for index, curve in enumerate(drawn))
    places = spread_out([place for place, _ in wanted], FONT + 2, 10, height - 26)
    for place, (_, index) in zip(places, wanted, strict=True):
        parts.append(text(right + 8, place, drawn[index].name, f"label {_kind(index, drawn[index])}"))
    return picture(width, height, title, "curves", parts)


def _kind(index: int, curve: Curve) -> str:
    return "loss" if curve.strong else f"part{index % 3}"


def _spread(low: float, high: float, margin: float) -> tuple[float, float]:
    if high <= low:
        return low - 0.5, low + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending positions near the wanted (ascending) ones, at least `gap` apart and within [low, high] if they fit."""
    places: list[float] = []
    for position in wanted:
        places.append(max(position, places[-1] + gap if places else low))
    for k in range(len(places) - 1, -1, -1):
        places[k] = min(places[k], high - gap * (len(places) - 1 - k))
    return places


def strip_ends(column: Column, placed: Sequence[float]) -> tuple[float, float]:
    """Ends of the line below a number of a table: the whole scale, or what the given places need."""
    scale = SCALES[column.scale]
    if scale.limits is not None:
        return scale.limits
    if column.is_p_value:
        return min([LEAST_P, *placed]), 0.0
    return _spread(min(placed, default=0.0), max(placed, default=1.0), 0.0)


def axis_ends(column: Column, placed: Sequence[float], least: float = 0.02) -> tuple[float, float]:
    """Ends of an axis that shows the given places (one or more) with a tenth of room, but little beyond the scale's limits.

    least: room in parts of the whole scale, where it has limits: small differences are not to look large.
    """
    scale = SCALES[column.scale]
    low, high = min(placed), max(placed)
    if column.is_p_value:
        low = min(low, LEAST_P)
        return low - 0.06 * -low, 0.06 * -low
    if scale.limits is None:
        margin = 0.1 * (high - low) or 0.5
        return low - margin, high + margin
    width = scale.limits[1] - scale.limits[0]
    margin = max(0.1 * (high - low), least * width)
    beyond = min(margin, 0.02 * width)
    return max(low - margin, scale.limits[0] - beyond), min(high + margin, scale.limits[1] + beyond)


def axis_words(column: Column) -> str:
    """What an axis measures, and whether it is drawn over powers of ten."""
    return column.words + (", log scale" if SCALES[column.scale].powers else "")


def ticks(column: Column, low: float, high: float, count: int = 4) -> list[tuple[float, str]]:
    """About `count` places between two, low < high, each with what is written there."""
    scale = SCALES[column.scale]
    if not scale.powers:
        least, most = scale.limits or (low, high)
        return [(tick, f"{tick:.4g}") for tick in nice_ticks(max(low, least), min(high, most), count)]
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    if last - first < 2 and not column.is_p_value and high < 300:  # 10 ** 309 is no float
        return [(math.log10(tick), f"{tick:.4g}") for tick in nice_ticks(10.0**low, 10.0**high, count) if tick > 0]
    last = min(last, 0) if column.is_p_value else last
    step = max(1, math.ceil((last - first) / (1.5 * count)))
    powers = range(last, first - 1, -step)
    return [(float(power), f"10{str(power).translate(_SUPERSCRIPT)}" if power else "1") for power in reversed(powers)]


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers in [low, high], low < high."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / raw)))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
