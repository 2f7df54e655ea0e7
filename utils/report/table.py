"""The numbers of a report as a table: best marks, what runs should share, and table.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from utils.files import flat_settings
from utils.report.columns import Column
from utils.report.read import Report, ReportRun

MISSING = "–"
# What runs of one table should agree in, where they have it; below, the options of the benchmark.
SHARED = {
    "model": "model.name",
    "benchmark": "benchmark.name",
    "split": "split",
    "seed": "seed",
    "data_root": "data_root",
    "rows": "benchmark.rows",
    "compat": "compat",
}
ASIDE = {"seed"}  # may differ
TOLD = {"benchmark.name", "benchmark.rows", "benchmark.split", "benchmark.data_root"}


def best_cells(part: Report) -> set[tuple[Path, str]]:
    """(folder, column name) of the best methods of each column. part: runs of one benchmark.

    Methods whose printed numbers agree share the place; where all of them do, or there is only one, nobody has it.
    """
    best = set()
    for column in part.columns:
        values = {run.folder: run.value(column.metric) for run in part.of_role("method")}
        values = {folder: value for folder, value in values.items() if value is not None and not math.isnan(value)}
        top = column.best(list(values.values()))
        if top is not None:
            first = {(folder, column.name) for folder, value in values.items() if column.show(value) == column.show(top)}
            best |= first if len(first) < len(values) else set()
    return best


def markdown_table(report: Report) -> str:
    """The content of table.md: a table per benchmark, what was left out, and one line with settings and command."""
    lines = [f"# {markdown_text(report.title)}", ""]
    parts = report.parts()
    for benchmark, part in parts.items():
        lines += [f"## {markdown_text(benchmark)}", ""] if len(parts) > 1 else []
        lines += [*_table(part), "", legend(part), ""]
    if report.left_out:
        lines += ["Left out:", ""]
        lines += [f"- {markdown_text(entry.name)}: {markdown_text(entry.why)}" for entry in report.left_out] + [""]
    lines.append(f"{markdown_text(settings_line(report))} Made with `{report.command}`")
    return "\n".join(lines) + "\n"


def markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose first row is its header; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "| " + " | ".join(["---", *("---:" for _ in rows[0][1:])]) + " |", *lines[1:]]


def markdown_text(text: str) -> str:
    """Plain text that stays what it is in a cell of a Markdown table."""
    flat = " ".join(text.split()).replace("\\", "\\\\")
    for plain, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        flat = flat.replace(plain, written)
    return flat


def legend(part: Report) -> str:
    """How to read the table of one benchmark."""
    directions = {column.better for column in part.columns}
    words = ["↑ more is better"] if "high" in directions else []
    words += ["→ 0 the nearer to 0 the better"] if "zero" in directions else []
    less = "↓ less is better" + (", but less than the oracle is no gain" if part.of_role("oracle") else "")
    words += [less] if "low" in directions else []
    reading = f"; {', '.join(words)}" if words else ""
    names = "; ".join(f"{column.name} = {column.meaning}" for column in part.columns if column.meaning)
    lead = f"value [95 % interval over questions]. Bold: best of the methods{reading}. {MISSING}: not measured."
    return f"{lead} {names}." if names else lead


def settings_line(report: Report) -> str:
    """Model, benchmark, split, seed and data_root of the runs; more than one value is listed."""
    facts = shared_settings(report)
    return "Settings: " + ", ".join(f"{name} {' and '.join(values)}" for name, values in facts.items()) + "."


def shared_settings(report: Report) -> dict[str, list[str]]:
    """Values of what runs of one table should agree in, in order of first appearance; what no run has is left out."""
    found = {}
    for name, key in SHARED.items():
        chosen = [run.training for run in report.runs if run.training is not None] if name == "seed" else []
        capsules = chosen or [run.evaluation for run in report.runs]
        found[name] = _values([flat_settings(capsule["settings"]) for capsule in capsules], key)
    return {name: values for name, values in found.items() if values}


def disagreements(part: Report) -> dict[str, list[str]]:
    """Settings that the runs of one benchmark should share and do not, with their values: also any option of the benchmark."""
    flats = [flat_settings(run.evaluation["settings"]) for run in part.runs]
    options = dict.fromkeys(key for flat in flats for key in flat if key.startswith("benchmark.") and key not in TOLD)
    # What the metrics repeat of an option is told once.
    options = [key for key in options if f"benchmark.{key.removeprefix('benchmark.metrics.')}" not in {*options} - {key}]
    found = shared_settings(part) | {key: _values(flats, key) for key in options}
    return {name: values for name, values in found.items() if len(values) > 1 and name not in ASIDE}


def _values(flats: Sequence[dict], key: str) -> list[str]:
    return list(dict.fromkeys(str(flat[key]) for flat in flats if key in flat))


def _table(part: Report) -> list[str]:
    best, columns = best_cells(part), part.columns
    rows = [["run", *(markdown_text(column.header) for column in columns)]]
    for run in part.runs:
        cells = [_cell(run, column, (run.folder, column.name) in best) for column in columns]
        rows.append([markdown_text(run.label), *cells])
    return markdown_rows(rows)


def _cell(run: ReportRun, column: Column, best: bool) -> str:
    number = run.metrics.get(column.metric)
    if number is None:
        return MISSING
    text = column.show(number.value)
    return f"{f'**{text}**' if best else text} {column.show_interval(number.interval)}".rstrip()
