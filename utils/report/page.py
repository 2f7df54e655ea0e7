"""A report as one HTML page: no script, no font, no picture from elsewhere; readable offline and on a phone.

What the page says and how it looks is in templates/; here is what they show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.report.charts import Curve, curves, sign, strip, strip_ends
from utils.report.collapse import RULE
from utils.report.columns import SCALES, Column, Map
from utils.report.details import answered_tasks, differing_settings, facts, libraries
from utils.report.headline import caution, headline
from utils.report.read import BESIDE, Report, ReportRun, Role
from utils.report.scatter import LabelledPoint, scatter
from utils.report.table import best_cells, settings_line

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Code points that HTML forbids; a generation may hold any of them. Lone surrogates cannot be written as UTF-8 at all.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")
NOT_CURVES = ("step", "epoch", "learning_rate", "grad_norm")
MEANINGS: dict[Role, str] = {
    "untouched": "untouched, as it came",
    "target": "target, knows the forget set",
    "oracle": "retain oracle, never saw it",
    "method": "method",
    "relearned": "relearned, trained again after unlearning",
    "probe": "probe, asked in another way",
    "log": "log of other code",
}


def render(template: str, **content: Any) -> str:
    """A page from a file of templates/: plain strings are escaped, characters that HTML forbids become U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", TEMPLATES.get_template(template).render(content))


def page(report: Report) -> str:
    """The whole of report.html; a section with nothing to show is left out."""
    parts = report.parts()
    differing = differing_settings(report)
    return render(
        "report.html",
        title=report.title,
        lead=headline(report),
        cautions=caution(report),
        several=len(parts) > 1,
        tables={name: numbers(part) for name, part in parts.items()},
        left_out=report.left_out,
        maps={name: drawn_map(part, part.display.map) for name, part in parts.items() if part.display.map},
        training={
            run.label: curves(f"Training of {run.label}", lines)
            for run in report.of_role("method")
            if (lines := training_curves(run))
        },
        tasks=[task for part in parts.values() for task in answered_tasks(part)],
        runs=[facts(run, differing[run.label]) for run in report.runs],
        libraries=libraries(report.runs),
        definitions={name: estimate.definition for run in report.runs for name, estimate in run.metrics.items()},
        settings=settings_line(report),
        command=report.command,
    )


def numbers(part: Report) -> dict[str, Any]:
    """The table of one benchmark: a row per run, with what its columns have not, and how to read it."""
    columns, best = part.columns, best_cells(part)
    shown, scales = {column.metric for column in columns}, {column.scale for column in columns}
    cells = [_cells(part, column, best) for column in columns]
    return {
        "legend": [(sign(role), meaning) for role, meaning in MEANINGS.items() if part.of_role(role)],
        "collapsed": part.collapsed,
        "rule": RULE,
        "columns": columns,
        "rows": [(run, [of_column[place] for of_column in cells]) for place, run in enumerate(part.runs)],
        "scales": ", ".join(scale.words for name, scale in SCALES.items() if name in scales),
        "aim": part.of_role("oracle") and any(column.better == "oracle" for column in columns),
        "others": [Column(name, name, scale="free") for name in part.measured if name not in shown],
    }


def _cells(part: Report, column: Column, best: Collection[tuple[Path, str]]) -> list[dict[str, Any] | None]:
    """One column, a cell for each run: the number, whether it is the best, and where it lies between target and oracle."""
    values = [run.finite(column.metric) for run in part.runs]
    span = strip_ends(column, [column.place(value) for value in values if value is not None])
    beside = {role: column.place(value) for role in BESIDE if (value := part.first(role, column.metric)) is not None}
    cells: list[dict[str, Any] | None] = []
    for run in part.runs:
        estimate = run.metrics.get(column.metric)
        if estimate is None:
            cells.append(None)
            continue
        places = [column.place(end) for end in estimate.interval or ()]
        drawn = strip(column.place(estimate.value), places, span, beside, run.role)
        cells.append({"estimate": estimate, "best": (run.folder, column.name) in best, "strip": drawn})
    return cells


def drawn_map(part: Report, axes: Map) -> dict[str, Any]:
    """The picture of one benchmark; drawn twice, since a scaled picture has text too small for a phone."""
    placed = {run.label: _point(run, axes) for run in part.runs}
    points = [point for point in placed.values() if point is not None]
    return {
        "axes": axes,
        "wide": scatter(points, 860, 430, axes.x, axes.y) if points else None,
        "narrow": scatter(points, 372, 420, axes.x, axes.y) if points else None,
        "aim": part.of_role("oracle"),
        "absent": [label for label, point in placed.items() if point is None],
    }


def _point(run: ReportRun, axes: Map) -> LabelledPoint | None:
    x, y = run.finite(axes.x.metric), run.finite(axes.y.metric)
    if y is None and axes.y.is_p_value and run.role == "oracle":
        y = 1.0  # compared with itself
    if x is None or y is None:
        return None
    measured = run.metrics.get(axes.y.metric)
    # The interval of a p-value spans most of the picture and says little.
    y_interval = None if measured is None or axes.y.is_p_value else measured.interval
    return LabelledPoint(run.label, run.role, x, y, run.metrics[axes.x.metric].interval, y_interval)


def training_curves(run: ReportRun) -> list[Curve]:
    """Loss and parts of a run's log; values that are not finite and parts that equal the loss are left out."""
    records = [record for record in run.log if "loss" in record and "step" in record]
    names = dict.fromkeys(name for record in records for name in record if name not in NOT_CURVES)
    lines = []
    for name in names:
        pairs = [(record["step"], record[name]) for record in records if _finite(record.get(name))]
        same = name != "loss" and all(record.get(name) == record["loss"] for record in records)
        if pairs and not same:
            lines.append(Curve(name, [step for step, _ in pairs], [value for _, value in pairs], name == "loss"))
    return lines


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
