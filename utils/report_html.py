"""A report as one HTML page: no script, no font, no picture from elsewhere; readable offline and on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from utils.charts import Curve, curves, key, strip
from utils.markup import Html, element, join
from utils.report import Report, ReportRun
from utils.report_details import answers_section, settings_section
from utils.report_table import (
    COLUMNS,
    MISSING,
    QUALITY,
    UTILITY,
    Column,
    best_cells,
    disagreements,
    settings_line,
    show,
    show_interval,
)
from utils.scatter import SIGNIFICANCE, Point, scatter

STYLE = Path(__file__).with_name("report.css")
# Nothing may be fetched and nothing may run, whatever a generation holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
NAMED = 5  # methods that the headline lists by name
SMALLEST_P = 1e-300  # a p-value of 0 has no logarithm
NOT_CURVES = ("step", "epoch", "learning_rate", "grad_norm")
SECTIONS: tuple[tuple[str, str], ...] = (
    ("numbers", "Numbers"),
    ("map", "Forgetting against utility"),
    ("training", "Training"),
    ("answers", "Answers before and after"),
    ("settings", "Settings and provenance"),
)


def page(report: Report) -> str:
    """The whole of report.html."""
    builders: dict[str, Callable[[Report], list[Html]]] = {
        "numbers": table_section,
        "map": map_section,
        "training": training_section,
        "answers": answers_section,
        "settings": settings_section,
    }
    links = [element("a", {"href": f"#{name}"}, words) for name, words in SECTIONS]
    body = [
        element("header", {}, *_head(report), element("nav", {}, join(links, " "))),
        *(_section(name, words, builders[name](report)) for name, words in SECTIONS),
        element("footer", {}, settings_line(report), " Made with ", element("code", {}, report.command)),
    ]
    head = [
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("title", {}, report.title),
        element("style", {}, Html(STYLE.read_text(encoding="utf-8"))),
    ]
    document = element("html", {"lang": "en"}, element("head", {}, *head), "\n", element("body", {}, join(body, "\n")))
    return f"<!DOCTYPE html>\n{document}\n"


def headline(report: Report) -> str:
    """The result in at most three sentences: who matches the oracle on the forget set, and what utility that leaves."""
    methods = report.of_role("method")
    measured = [run for run in methods if _number(run, QUALITY) is not None]
    if not methods:
        return "No unlearned model yet: this is what the target knows and what the oracle does not."
    if not measured:
        return f"{_count(len(methods), 'method')}; forget quality was not measured, so nothing says which forgot."
    passed = [run for run in measured if run.value(QUALITY) >= SIGNIFICANCE]
    total = _count(len(measured), "method")
    if passed:
        names = ", ".join(run.label for run in passed[:NAMED])
        names += f" and {len(passed) - NAMED} more" if len(passed) > NAMED else ""
        lead = f"{len(passed)} of {total} cannot be told from the retain oracle on the forget set"
        lead += f" (p ≥ {SIGNIFICANCE}): {names}."
        chosen = max(passed, key=lambda run: _number(run, UTILITY) or 0.0)
        rest = f" {chosen.label} keeps the most utility of them: " if len(passed) > 1 else " It keeps "
        rest += _utility(chosen)
    else:
        chosen = max(measured, key=lambda run: run.value(QUALITY))
        p = show(COLUMNS[0], chosen.value(QUALITY))
        lead = f"None of {total} matches the retain oracle on the forget set (p < {SIGNIFICANCE})."
        rest = f" The nearest is {chosen.label}: p = {p}, {_utility(chosen)}"
    values = [(role, _reference(report, role, UTILITY)) for role in ("target", "oracle")]
    around = ", ".join(f"{role} {show(COLUMNS[1], value)}" for role, value in values if value is not None)
    return lead + rest + (f" ({around})." if around else ".")


def caution(report: Report) -> list[str]:
    """What a reader should know before trusting the table; often nothing."""
    notes = []
    weak = [run for run in report.of_role("target") if (_number(run, QUALITY) or 0.0) >= SIGNIFICANCE]
    if weak:
        number = weak[0].metrics[QUALITY]
        p = show(COLUMNS[0], number.value)
        notes.append(
            f"The target itself passes the test (p = {p}, n = {number.n}): these questions are too few, or it knows "
            "too little of them, for forget quality to tell who forgot."
        )
    for name, values in disagreements(report).items():
        notes.append(f"The runs do not share one {name}: {', '.join(values)}. Compare only those that do.")
    return notes


def table_section(report: Report) -> list[Html]:
    """Every number with its interval, and a strip that shows where it lies between target and oracle."""
    best = best_cells(report)
    floor = min([-2.0, *(_log(run.value(QUALITY)) for run in report.runs if _number(run, QUALITY) is not None)])
    heads = [element("th", {"scope": "col"}, "run")]
    for column in COLUMNS:
        name = join([element("span", {"class": "nowrap"}, column.header), element("small", {}, column.meaning)])
        heads.append(element("th", {"scope": "col", "class": "number"}, name))
    rows = []
    for run in report.runs:
        name = join([run.label, element("small", {}, run.folder.name)])
        cells = [_cell(report, run, column, (run.folder, column.name) in best, floor) for column in COLUMNS]
        rows.append(element("tr", {"class": run.role}, element("th", {"scope": "row"}, name), *cells))
    table = element("table", {}, element("thead", {}, element("tr", {}, *heads)), element("tbody", {}, *rows))
    meanings = {"target": "target, knows the forget set", "oracle": "retain oracle, never saw it", "method": "method"}
    keys = [key(role, meaning) for role, meaning in meanings.items()]
    words = (
        "The line under each number runs from 0 to 1 (for FQ over powers of ten); the thick part is its 95 % interval "
        "over questions, the ticks are target and oracle. Bold: best of the methods. On the forget set less is not "
        "better without end: the oracle is the aim."
    )
    parts = [
        element("p", {"class": "keys"}, join(keys, " ")),
        element("div", {"class": "scroll", "tabindex": "0"}, table),
        element("p", {"class": "note"}, words),
    ]
    if report.left_out:
        items = [element("li", {}, element("b", {}, entry.name), f": {entry.why}") for entry in report.left_out]
        parts += [element("h3", {}, "Left out"), element("ul", {"class": "note"}, *items)]
    return parts


def map_section(report: Report) -> list[Html]:
    """Forget quality against model utility; drawn twice, since a scaled picture has text too small for a phone."""
    points = [point for run in report.runs if (point := _point(run)) is not None]
    if not points:
        return [element("p", {"class": "note"}, "No run has both numbers.")]
    absent = [run.label for run in report.runs if _point(run) is None]
    words = (
        "Up: the truth ratios on the forget set look more like the oracle's; above the dashed line the test cannot "
        "tell them apart. Right: more of everything else is kept. Whiskers: 95 % interval of model utility. The aim is "
        "where the oracle is."
    )
    if absent:
        words += f" Without both numbers and so not drawn: {', '.join(absent)}."
    return [
        element("div", {"class": "wide"}, scatter(points, 860, 430)),
        element("div", {"class": "narrow"}, scatter(points, 372, 420)),
        element("p", {"class": "note"}, words),
    ]


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


def _head(report: Report) -> list[Html]:
    parts = [element("h1", {}, report.title), element("p", {"class": "lead"}, headline(report))]
    return parts + [element("p", {"class": "caution"}, words) for words in caution(report)]


def _section(name: str, words: str, content: list[Html]) -> Html:
    return element("section", {"id": name}, element("h2", {}, words), *content)


def _cell(report: Report, run: ReportRun, column: Column, best: bool, floor: float) -> Html:
    number = run.metrics.get(column.metric)
    if number is None:
        return element("td", {"class": "number missing"}, MISSING)
    scale = _log if column.metric == QUALITY else float
    references = [_reference(report, role, column.metric) for role in ("target", "oracle")]
    target, oracle = (None if value is None else scale(value) for value in references)
    interval = None if number.interval is None else (scale(number.interval[0]), scale(number.interval[1]))
    span = (floor, 0.0) if column.metric == QUALITY else (0.0, 1.0)
    shown = element("b" if best else "span", {"class": "value"}, show(column, number.value))
    picture = strip(scale(number.value), interval, span, target, oracle, run.role)
    return element("td", {"class": "number"}, shown, picture, element("small", {}, show_interval(column, number)))


def _point(run: ReportRun) -> Point | None:
    utility, quality = _number(run, UTILITY), _number(run, QUALITY)
    if quality is None and run.role == "oracle":
        quality = 1.0  # compared with itself
    if utility is None or quality is None:
        return None
    return Point(run.label, run.role, utility, _log(quality), run.metrics[UTILITY].interval)


def _number(run: ReportRun, metric: str) -> float | None:
    """The value if it is one that can be compared."""
    value = run.value(metric)
    return value if _finite(value) else None


def _reference(report: Report, role: str, metric: str) -> float | None:
    values = [value for run in report.runs if run.role == role and (value := _number(run, metric)) is not None]
    return values[0] if values else None


def _utility(run: ReportRun) -> str:
    value = _number(run, UTILITY)
    return "an unmeasured model utility" if value is None else f"model utility {show(COLUMNS[1], value)}"


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _log(p: float) -> float:
    return math.log10(max(p, SMALLEST_P)) if not math.isnan(p) else p


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
