"""The numbers of a report as a table: columns, directions, best marks, and table.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from utils.files import flat_settings
from utils.report import Number, Report, ReportRun

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One metric of metrics.json as a column. `higher`: whether larger numbers are better."""

    name: str
    metric: str
    higher: bool
    meaning: str

    @property
    def header(self) -> str:
        return f"{self.name} {'↑' if self.higher else '↓'}"


COLUMNS = (
    Column("FQ", "forget_quality", True, "forget quality, a p-value"),
    Column("MU", "model_utility", True, "model utility"),
    Column("F-ROUGE", "forget_rougeL_recall", False, "ROUGE-L recall, forget set"),
    Column("F-Prob", "forget_prob", False, "answer probability, forget set"),
    Column("F-TR", "forget_truth_ratio", True, "truth ratio, forget set"),
    Column("R-ROUGE", "retain_rougeL_recall", True, "ROUGE-L recall, retain set"),
    Column("R-Prob", "retain_prob", True, "answer probability, retain set"),
    Column("RA-ROUGE", "real_authors_rougeL_recall", True, "ROUGE-L recall, real authors"),
    Column("WF-ROUGE", "world_facts_rougeL_recall", True, "ROUGE-L recall, world facts"),
)
QUALITY, UTILITY = "forget_quality", "model_utility"


def best_cells(report: Report) -> set[tuple[Path, str]]:
    """(folder, column name) of the best methods of each column.

    Methods whose printed numbers agree share the place; where all of them do, or there is only one, nobody has it.
    """
    best = set()
    for column in COLUMNS:
        values = {run.folder: run.value(column.metric) for run in report.of_role("method")}
        values = {folder: value for folder, value in values.items() if value is not None and not math.isnan(value)}
        if values:
            shown = show(column, (max if column.higher else min)(values.values()))
            first = {(folder, column.name) for folder, value in values.items() if show(column, value) == shown}
            best |= first if len(first) < len(values) else set()
    return best


def show(column: Column, value: float) -> str:
    """A number of a column as text: p-values below 0.001 as 1.2e-05, everything else with three decimals."""
    small = column.metric == QUALITY and 0 < value < 1e-3
    return f"{value:.1e}" if small else f"{value:.3f}"


def show_interval(column: Column, number: Number) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    if number.interval is None:
        return ""
    low, high = number.interval
    return f"[{show(column, low)}, {show(column, high)}]"


def markdown_table(report: Report) -> str:
    """The content of table.md: the table, what was left out, and one line with settings and command."""
    best = best_cells(report)
    rows = [["run", *(column.header for column in COLUMNS)], ["---", *("---:" for _ in COLUMNS)]]
    for run in report.runs:
        cells = [_markdown_cell(run, column, (run.folder, column.name) in best) for column in COLUMNS]
        rows.append([_markdown_text(run.label), *cells])
    table = ["| " + " | ".join(row) + " |" for row in rows]
    lines = [f"# {_markdown_text(report.title)}", "", *table, "", legend(), ""]
    if report.left_out:
        lines += ["Left out:", ""]
        lines += [f"- {_markdown_text(entry.name)}: {_markdown_text(entry.why)}" for entry in report.left_out] + [""]
    lines.append(f"{_markdown_text(settings_line(report))} Made with `{report.command}`")
    return "\n".join(lines) + "\n"


def legend() -> str:
    """How to read the table."""
    names = "; ".join(f"{column.name} = {column.meaning}" for column in COLUMNS)
    return (
        "value [95 % interval over questions]. Bold: best of the methods; ↑ more is better, ↓ less is better, but less "
        f"than the oracle is no gain. {MISSING}: not measured. {names}."
    )


def settings_line(report: Report) -> str:
    """Model, benchmark, split, seed and data_root of the runs; more than one value is listed."""
    facts = shared_settings(report)
    return "Settings: " + ", ".join(f"{name} {' and '.join(values)}" for name, values in facts.items()) + "."


def shared_settings(report: Report) -> dict[str, list[str]]:
    """Values of what runs of one table should agree in, in order of first appearance."""
    places = {
        "model": "model.name",
        "benchmark": "benchmark.name",
        "split": "split",
        "seed": "seed",
        "data_root": "data_root",
        "rows": "benchmark.rows",
        "compat": "compat",
        "truth_ratio": "benchmark.truth_ratio",
    }
    flats = [flat_settings(run.evaluation["settings"]) for run in report.runs]
    seeds = [flat_settings(run.training["settings"]) for run in report.runs if run.training is not None]
    found = {}
    for name, key in places.items():
        values = [flat[key] for flat in (seeds or flats if name == "seed" else flats) if key in flat]
        found[name] = list(dict.fromkeys(str(value) for value in values)) or ["unknown"]
    return found


def disagreements(report: Report) -> dict[str, list[str]]:
    """Settings that the runs of one table should share and do not, with their values. Seeds may differ."""
    return {name: values for name, values in shared_settings(report).items() if len(values) > 1 and name != "seed"}


def _markdown_cell(run: ReportRun, column: Column, best: bool) -> str:
    number = run.metrics.get(column.metric)
    if number is None:
        return MISSING
    text = show(column, number.value)
    return f"{f'**{text}**' if best else text} {show_interval(column, number)}".rstrip()


def _markdown_text(text: str) -> str:
    flat = " ".join(text.split()).replace("\\", "\\\\")
    for plain, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        flat = flat.replace(plain, written)
    return flat
