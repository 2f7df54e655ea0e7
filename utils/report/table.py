"""The numbers of a report as a table: best marks, what runs should share, and table.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.files import flat_settings
from utils.report.collapse import MARK, RULE
from utils.report.columns import READINGS, Column
from utils.report.markdown import MISSING, Markdown, bold, escape, table
from utils.report.read import Estimate, Report

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
OF_LOGS = ("benchmark", "split", "compat")  # what the evaluation of a log read; its model is whatever was logged
TOLD = {"benchmark.name", "benchmark.rows", "benchmark.split", "benchmark.data_root"}


def best_cells(part: Report) -> set[tuple[Path, str]]:
    """(folder, column name) of the best methods of each column. part: runs of one benchmark.

    Methods whose printed numbers agree share the place; where all of them do, or there is only one, nobody has it. A collapsed
    one never has it.
    """
    marked, methods, collapsed = set(), part.of_role("method"), part.collapsed
    for column in part.columns:
        measured = {run.folder: run.metrics[column.metric].value for run in methods if column.metric in run.metrics}
        values = {folder: value for folder, value in measured.items() if not math.isnan(value)}
        sound = {folder: value for folder, value in values.items() if folder not in collapsed}
        best = column.best(sound, part.first("oracle", column.metric))
        marked |= {(folder, column.name) for folder in best} if len(best) < len(values) else set()
    return marked


def markdown_table(report: Report) -> str:
    """The content of table.md: a table per benchmark, what was left out, and one line with settings and command."""
    lines = [f"# {escape(report.title)}", ""]
    parts = report.parts()
    for benchmark, part in parts.items():
        lines += [f"## {escape(benchmark)}", ""] if len(parts) > 1 else []
        lines += [_table(part), "", escape(legend(part)), ""]
    if report.left_out:
        lines += ["Left out:", "", *(f"- {escape(name)}: {escape(why)}" for name, why in report.left_out.items()), ""]
    lines.append(f"{escape(settings_line(report))} Made with `{report.command}`")
    return "\n".join(lines) + "\n"


def legend(part: Report) -> str:
    """How to read the table of one benchmark."""
    directions = {column.better for column in part.columns}
    words = [reading for better, reading in READINGS.items() if better in directions]
    reading = f"; {', '.join(words)}" if words else ""
    names = meanings(part.columns)
    lead = f"value [95 % interval over questions]. Bold: best of the methods{reading}. {MISSING}: not measured."
    lead += f" {RULE}." if part.collapsed else ""
    return f"{lead} {names}." if names else lead


def settings_line(report: Report) -> str:
    """Model, benchmark, split, seed and data_root of the runs; more than one value is listed."""
    facts = shared_settings(report)
    return "Settings: " + ", ".join(f"{name} {' and '.join(values)}" for name, values in facts.items()) + "."


def shared_settings(report: Report) -> dict[str, list[str]]:
    """Values of what runs of one table should agree in, in order of first appearance; what no run has is left out."""
    shared = {}
    for name, key in SHARED.items():
        runs = [run for run in report.runs if run.role != "log" or name in OF_LOGS]
        chosen = [run.training for run in runs if run.training is not None] if name == "seed" else []
        capsules = chosen or [run.evaluation for run in runs]
        shared[name] = _values([flat_settings(capsule["settings"]) for capsule in capsules], key)
    return {name: values for name, values in shared.items() if values}


def disagreements(part: Report) -> dict[str, list[str]]:
    """Settings that the runs of one benchmark should share and do not, with their values: also any option of the benchmark."""
    flats = [run.settings for run in part.runs]
    keys = dict.fromkeys(key for flat in flats for key in flat if key.startswith("benchmark.") and key not in TOLD)
    # What the metrics repeat of an option is told once.
    options = [key for key in keys if f"benchmark.{key.removeprefix('benchmark.metrics.')}" not in {*keys} - {key}]
    facts = shared_settings(part) | {key: _values(flats, key) for key in options}
    return {name: values for name, values in facts.items() if len(values) > 1 and name not in ASIDE}


def _values(flats: Sequence[dict], key: str) -> list[str]:
    return list(dict.fromkeys(str(flat[key]) for flat in flats if key in flat))


def _table(part: Report) -> str:
    best, columns, collapsed = best_cells(part), part.columns, part.collapsed
    rows = []
    for run in part.runs:
        cells = [estimate_cell(run.metrics, column, (run.folder, column.name) in best) for column in columns]
        rows.append([f"{run.label} {MARK}" if run.folder in collapsed else run.label, *cells])
    return table(["run", *(column.header for column in columns)], rows)


def estimate_cell(metrics: Mapping[str, Estimate], column: Column, best: bool = False) -> str:
    """The number of a column with its interval, in Markdown."""
    estimate = metrics.get(column.metric)
    if estimate is None:
        return MISSING
    text = column.show(estimate.value)
    return Markdown(f"{bold(text) if best else text} {column.show_interval(estimate.interval)}".rstrip())


def meanings(columns: Sequence[Column]) -> str:
    """What the names of columns mean, as far as that is declared."""
    return "; ".join(f"{column.name} = {column.meaning}" for column in columns if column.meaning)
