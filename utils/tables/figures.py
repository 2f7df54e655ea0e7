"""Pictures of a study, as SVG and PDF that stand alone: what was forgotten against what was kept, and all trials of its tuning.

The same table gives the same files, byte for byte: no clock, no random names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.report.columns import Map
from utils.tables.table import StudyTable, TableRow

INK, PALE = "#222222", "#bbbbbb"
ROLES: Mapping[str, tuple[str, str]] = {  # marker and colour
    "target": ("s", "#7a7a7a"),
    "oracle": ("*", "#111111"),
    "untouched": ("D", "#7a7a7a"),
    "method": ("o", "#0b6fb8"),
    "relearned": ("^", "#b3541e"),
    "log": ("x", "#5b8a3c"),
}
NAMED = 14  # points that carry their names; of more, each carries a number, and a list beside the picture names them
STYLE = {
    "svg.hashsalt": "lethe",
    "svg.fonttype": "none",  # letters stay letters: to be searched, and set in the reader's font
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
}


@dataclass(frozen=True)
class TrialPoint:
    """A trial of tuning: distance from the oracle, share of the target's utility that it kept; chosen: by some part."""

    row: str
    distance: float
    kept: float
    chosen: bool


def draw_map(table: StudyTable, axes: Map, folder: Path) -> list[Path]:
    """map.svg and map.pdf: the columns of the benchmark's map, mean and standard deviation of each row; none if unmeasured."""
    places = [_place(table, column.metric) for column in (axes.x, axes.y)]
    if None in places:
        return []
    x, y = (place for place in places if place is not None)
    points = [(row, row.cells[x], row.cells[y]) for row in table.rows]
    known = [(row, a.spread, b.spread) for row, a, b in points if a and b and a.spread and b.spread]
    if not known:
        return []
    with _figure(folder / "map", wide=len(known) > NAMED) as (paths, drawn):
        for number, (row, across, up) in enumerate(known, start=1):
            marker, colour = ROLES[row.role]
            bars = {"xerr": _sd(across), "yerr": _sd(up)}
            drawn.errorbar(
                across.mean, up.mean, **bars, fmt=marker, color=PALE if row.collapsed else colour, ms=9 if marker == "*" else 5,
                elinewidth=0.6, ecolor=PALE, mfc="none" if row.collapsed else colour, zorder=2,
            )  # fmt: skip
            words = row.name if len(known) <= NAMED else str(number)
            drawn.annotate(words, (across.mean, up.mean), xytext=(4, 3), textcoords="offset points", fontsize=7, color=INK)
        for row, across, up in known:
            if row.role == "oracle":
                drawn.axhline(up.mean, color=INK, lw=0.5, ls=":", zorder=1)
                drawn.axvline(across.mean, color=INK, lw=0.5, ls=":", zorder=1)
        shown = [table.columns[place].shown for place in (x, y)]
        drawn.set_xlabel(f"{shown[0].words}{_arrow(shown[0].better)}")
        drawn.set_ylabel(f"{shown[1].words}{_arrow(shown[1].better)}")
        drawn.set_title(table.spec.title, loc="left", fontsize=9)
        if len(known) > NAMED:
            _listed(drawn, [row for row, _, _ in known])
    return paths


def draw_trials(title: str, points: Sequence[TrialPoint], kept: str, share: float, folder: Path) -> list[Path]:
    """trials.svg and trials.pdf: every trial, the front of those that no other beats in both, and what was chosen."""
    if not points:
        return []
    rows = list(dict.fromkeys(point.row for point in points))
    colours = matplotlib.colormaps["tab20"].resampled(max(len(rows), 2))
    with _figure(folder / "trials", wide=True) as (paths, drawn):
        for place, row in enumerate(rows):
            own = [point for point in points if point.row == row]
            drawn.scatter([p.kept for p in own], [p.distance for p in own], s=14, color=colours(place), label=row, zorder=2)
            for point in own:
                if point.chosen:
                    drawn.scatter([point.kept], [point.distance], s=60, facecolors="none", edgecolors=INK, lw=0.8, zorder=3)
        front = pareto(points)
        drawn.plot([p.kept for p in front], [p.distance for p in front], color=INK, lw=0.7, ls="--", zorder=1, label="front")
        drawn.axvline(share, color=PALE, lw=0.6, zorder=0)
        drawn.set_xlabel(f"share of the target's {kept} →")
        drawn.set_ylabel("distance from the oracle ↓")
        drawn.set_title(f"Trials: {title} (ringed: chosen)", loc="left", fontsize=9)
        drawn.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7)
    return paths


def pareto(points: Sequence[TrialPoint]) -> list[TrialPoint]:
    """Those that no other beats: as near to the oracle and keeping as much, and better in one. By what they keep."""

    def beaten(one: TrialPoint) -> bool:
        return any(
            other.distance <= one.distance and other.kept >= one.kept and (other.distance, other.kept) != (one.distance, one.kept)
            for other in points
        )

    return sorted((one for one in points if not beaten(one)), key=lambda one: (one.kept, one.distance))


@contextmanager
def _figure(path: Path, wide: bool) -> Iterator[tuple[list[Path], Axes]]:
    """Axes to draw on, and the paths of both files, which are written when the block ends."""
    paths = [path.with_suffix(".svg"), path.with_suffix(".pdf")]
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every letter
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4 if wide else 5.0, 3.6), layout="constrained")
        yield paths, figure.subplots()
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in paths:
            nobody: dict[str, Any] = {"Date": None} if file.suffix == ".svg" else {"CreationDate": None, "ModDate": None}
            figure.savefig(file, metadata=nobody)


def _place(table: StudyTable, metric: str) -> int | None:
    """The column whose number this is: itself, or the statistic behind a p-value."""
    for place, column in enumerate(table.columns):
        if column.evaluation == table.spec.plain and metric in (column.column.metric, column.shown.metric):
            return place
    return None


def _sd(spread: Any) -> float | None:
    return spread.sd if spread.n > 1 else None


def _arrow(better: str) -> str:
    return {"high": " →", "low": " ←", "oracle": " (→ oracle)"}.get(better, "")


def _listed(drawn: Axes, rows: Sequence[TableRow]) -> None:
    lines = [f"{number:>2}  {row.name}" for number, row in enumerate(rows, start=1)]
    half = (len(lines) + 1) // 2 if len(lines) > 30 else len(lines)
    for place, part in enumerate((lines[:half], lines[half:])):
        drawn.text(
            1.02 + 0.35 * place,
            1.0,
            "\n".join(part),
            transform=drawn.transAxes,
            va="top",
            fontsize=5.5 if len(lines) > 30 else 6.5,
        )
