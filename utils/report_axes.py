"""Axes of charts whose values are metrics: which part of a scale is drawn, and what is written beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from utils.charts import nice_ticks
from utils.report_columns import SCALES, Column

LEAST_P = -2.0  # p-values are drawn down to 0.01 at least, so that 0.05 is inside
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def strip_ends(column: Column, placed: Sequence[float]) -> tuple[float, float]:
    """Ends of the line below a number of a table: the whole scale, or what the given places need."""
    scale = SCALES[column.scale]
    if scale.limits is not None:
        return scale.limits
    if column.is_p_value:
        return min([LEAST_P, *placed]), 0.0
    low, high = min(placed, default=0.0), max(placed, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


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
    return [(float(power), power_of_ten(power)) for power in range(last, first - 1, -step)][::-1]


def power_of_ten(exponent: int) -> str:
    """-2 -> 10⁻², 0 -> 1."""
    return "1" if exponent == 0 else "10" + str(exponent).translate(_SUPERSCRIPT)


def axis_words(column: Column) -> str:
    """What an axis measures, and whether it is drawn over powers of ten."""
    return column.words + (", log scale" if SCALES[column.scale].powers else "")
