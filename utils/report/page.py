"""A report as one HTML page: no script, no font, no picture from elsewhere; readable offline and on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.report.charts import Curve, curves, key, strip, strip_ends
from utils.report.columns import Column, Map, read_shown
from utils.report.details import answers_section, folded, settings_section
from utils.report.headline import caution, headline, number, reference
from utils.report.markup import Html, element, join
from utils.report.read import Report, ReportRun
from utils.report.scatter import Point, scatter
from utils.report.table import MISSING, best_cells, settings_line

STYLE = Path(__file__).with_name("report.css")
# Nothing may be fetched and nothing may run, whatever a generation holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
NOT_CURVES = ("step", "epoch", "learning_rate", "grad_norm")


def page(report: Report) -> str:
    """The whole of report.html; a section with nothing to show is left out."""
    builders: dict[str, tuple[str, Callable[[Report], list[Html]]]] = {
        "numbers": ("Numbers", numbers_section),
        "map": ("Forgetting against utility", map_section),
        "training": ("Training", training_section),
        "answers": ("Answers before and after", answers_section),
        "settings": ("Settings and provenance", settings_section),
    }
    built = {name: (words, build(report)) for name, (words, build) in builders.items()}
    sections = {name: (words, content) for name, (words, content) in built.items() if content}
    links = [element("a", {"href": f"#{name}"}, words) for name, (words, _) in sections.items()]
    head = [
        element("h1", {}, report.title),
        element("p", {"class": "lead"}, headline(report)),
        *(element("p", {"class": "caution"}, words) for words in caution(report)),
        element("nav", {}, join(links, " ")),
    ]
    body = [
        element("header", {}, *head),
        *(element("section", {"id": n}, element("h2", {}, words), *content) for n, (words, content) in sections.items()),
        element("footer", {}, settings_line(report), " Made with ", element("code", {}, report.command)),
    ]
    return whole_page(report.title, body)


def whole_page(title: str, body: Sequence[Html], more_style: str = "") -> str:
    """A page in the look of the report, from its title, the parts of its body, and style rules of its own."""
    head = [
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("title", {}, title),
        element("style", {}, Html(STYLE.read_text(encoding="utf-8") + more_style)),
    ]
    document = element("html", {"lang": "en"}, element("head", {}, *head), "\n", element("body", {}, join(body, "\n")))
    return f"<!DOCTYPE html>\n{document}\n"


def numbers_section(report: Report) -> list[Html]:
    """A table for each benchmark, then what was left out."""
    parts = [part for name, of_one in report.parts().items() for part in _titled(report, name, table_section(of_one))]
    if report.left_out:
        items = [element("li", {}, element("b", {}, entry.name), f": {entry.why}") for entry in report.left_out]
        parts += [element("h3", {}, "Left out"), element("ul", {"class": "note"}, *items)]
    return parts


def table_section(part: Report) -> list[Html]:
    """Every number with its interval, and a strip that shows where it lies between target and oracle; then the other metrics."""
    best, columns = best_cells(part), part.columns
    heads = [element("th", {"scope": "col"}, "run")]
    for column in columns:
        name = join([element("span", {"class": "nowrap"}, column.header), element("small", {}, column.meaning)])
        heads.append(element("th", {"scope": "col", "class": "number"}, name))
    rows = []
    for run in part.runs:
        name = join([run.label, element("small", {}, run.folder.name)])
        cells = [_cell(part, run, column, (run.folder, column.name) in best) for column in columns]
        rows.append(element("tr", {"class": run.role}, element("th", {"scope": "row"}, name), *cells))
    table = element("table", {}, element("thead", {}, element("tr", {}, *heads)), element("tbody", {}, *rows))
    meanings = {"target": "target, knows the forget set", "oracle": "retain oracle, never saw it", "method": "method"}
    keys = [key(role, meaning) for role, meaning in meanings.items() if part.of_role(role)]
    return [
        element("p", {"class": "keys"}, join(keys, " ")),
        element("div", {"class": "scroll", "tabindex": "0"}, table),
        element("p", {"class": "note"}, _reading(part, columns)),
        *_other_metrics(part, columns),
    ]


def map_section(report: Report) -> list[Html]:
    """One number against another for each benchmark that says which; empty if none does."""
    found = {name: read_shown(name).map for name in report.parts()}
    parts = report.parts()
    return [piece for name, axes in found.items() if axes for piece in _titled(report, name, _map(parts[name], axes))]


def training_section(report: Report) -> list[Html]:
    """The loss of every method against the optimizer step, with its parts."""
    panels = []
    for run in report.of_role("method"):
        lines = training_curves(run)
        if lines:
            title = element("figcaption", {}, run.label)
            panels.append(element("figure", {}, title, curves(f"Training of {run.label}", lines)))
    if not panels:
        return [element("p", {"class": "note"}, "No method has a log.jsonl with a loss.")]
    words = (
        "Loss (strong) and the parts it was logged with, against the optimizer step. Losses differ in kind: every "
        "panel has its own scale."
    )
    return [element("div", {"class": "panels"}, *panels), element("p", {"class": "note"}, words)]


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


def _titled(report: Report, benchmark: str, content: list[Html]) -> list[Html]:
    """Content of one of several benchmarks under its name."""
    return [element("h3", {}, benchmark), *content] if len(report.parts()) > 1 else content


def _map(part: Report, axes: Map) -> list[Html]:
    """The picture of one benchmark; drawn twice, since a scaled picture has text too small for a phone."""
    placed = {run.label: _point(run, axes) for run in part.runs}
    points = [point for point in placed.values() if point is not None]
    if not points:
        return [element("p", {"class": "note"}, f"No run has both {axes.x.name} and {axes.y.name}.")]
    whiskers = axes.x.words if axes.y.is_p_value else "either number"
    words = [axes.words, f"Whiskers: 95 % interval of {whiskers}."]
    words += ["The aim is where the oracle is."] if part.of_role("oracle") else []
    absent = [label for label, point in placed.items() if point is None]
    words += [f"Without both numbers and so not drawn: {', '.join(absent)}."] if absent else []
    return [
        element("div", {"class": "wide"}, scatter(points, 860, 430, axes.x, axes.y)),
        element("div", {"class": "narrow"}, scatter(points, 372, 420, axes.x, axes.y)),
        element("p", {"class": "note"}, " ".join(words).strip()),
    ]


def _reading(part: Report, columns: Sequence[Column]) -> str:
    """How to read the table of one benchmark."""
    words = {
        "share": "from 0 to 1",
        "percent": "from 0 to 100 for percentages",
        "p": "over powers of ten for p-values",
        "log": "over powers of ten for perplexities",
        "free": "over the values of these runs for other numbers",
    }
    scales = {column.scale for column in columns}
    lines = ", ".join(meaning for scale, meaning in words.items() if scale in scales)
    text = f"The line under each number runs {lines}; the thick part is its 95 % interval over questions"
    text += ", the ticks are target and oracle. Bold: best of the methods."
    if part.of_role("oracle") and any(column.better == "low" for column in columns):
        text += " On the forget set less is not better without end: the oracle is the aim."
    return text


def _other_metrics(part: Report, columns: Sequence[Column]) -> list[Html]:
    """What was measured and has no column: a row each, folded away."""
    others = [name for name in part.measured if name not in {column.metric for column in columns}]
    if not others:
        return []
    heads = [element("th", {"scope": "col"}, "metric")]
    heads += [element("th", {"scope": "col", "class": "number"}, run.label) for run in part.runs]
    rows = []
    for name in others:
        plain = Column(name, name, scale="free")
        found = [run.metrics.get(name) for run in part.runs]
        cells = [
            MISSING if n is None else join([plain.show(n.value), element("small", {}, plain.show_interval(n.interval))])
            for n in found
        ]
        shown = (element("td", {"class": "number"}, cell) for cell in cells)
        rows.append(element("tr", {}, element("th", {"scope": "row"}, name), *shown))
    table = element("table", {}, element("thead", {}, element("tr", {}, *heads)), element("tbody", {}, *rows))
    title = f"{len(others)} other metric{'s' if len(others) > 1 else ''}"
    return [folded(title, element("div", {"class": "scroll", "tabindex": "0"}, table))]


def _cell(part: Report, run: ReportRun, column: Column, best: bool) -> Html:
    found = run.metrics.get(column.metric)
    if found is None:
        return element("td", {"class": "number missing"}, MISSING)
    known = [value for other in part.runs if (value := number(other, column)) is not None]
    references = [reference(part, role, column) for role in ("target", "oracle")]
    target, oracle = (None if value is None else column.place(value) for value in references)
    interval = None if found.interval is None else (column.place(found.interval[0]), column.place(found.interval[1]))
    span = strip_ends(column, [column.place(value) for value in known])
    shown = element("b" if best else "span", {"class": "value"}, column.show(found.value))
    picture = strip(column.place(found.value), interval, span, target, oracle, run.role)
    return element("td", {"class": "number"}, shown, picture, element("small", {}, column.show_interval(found.interval)))


def _point(run: ReportRun, axes: Map) -> Point | None:
    x, y = number(run, axes.x), number(run, axes.y)
    if y is None and axes.y.is_p_value and run.role == "oracle":
        y = 1.0  # compared with itself
    if x is None or y is None:
        return None
    measured = run.metrics.get(axes.y.metric)
    # The interval of a p-value spans most of the picture and says little.
    y_interval = None if measured is None or axes.y.is_p_value else measured.interval
    return Point(run.label, run.role, x, y, run.metrics[axes.x.metric].interval, y_interval)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
