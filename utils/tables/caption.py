"""The caption of a study's table: what was done, how to read each mark that is used, and what the numbers cannot say."""

from __future__ import annotations

from utils.report.collapse import RULE
from utils.report.columns import READINGS
from utils.tables.statistics import FEW
from utils.tables.table import StudyTable


def caption(table: StudyTable) -> list[str]:
    """A sentence each, in the order in which a reader needs them."""
    settings = [f"{table.spec.settings.rstrip('.')}."] if table.spec.settings else []
    return [
        *settings,
        *_marks(table),
        *_differences(table),
        *_limits(table),
        *_published(table),
        *_left_out(table),
        *_names(table),
    ]


def _marks(table: StudyTable) -> list[str]:
    notes = ["Mean ± standard deviation (n - 1) over n seeds; where a number has fewer, n stands beside it."]
    if any(cell.best for cell in table.cells):
        rest = " that are not collapsed" if table.judged else ""
        notes.append(f"Bold: best of the methods{rest}, as printed; equal prints share it.")
    directions = {column.shown.better for column in table.columns}
    notes += [f"{words}." for better, words in READINGS.items() if better in directions]
    notes.append(_collapse(table))
    if any(cell.p_values for cell in table.cells):
        notes.append(
            "p-values have no mean: D is the statistic of the test; p and place, that of D among the distances between oracles "
            "of other seeds, are given from least to largest over seeds."
        )
    if any(cell.drop for cell in table.cells):
        notes.append(f"Drop: the evaluation {table.spec.plain} minus the one in brackets, per seed.")
    return notes


def _collapse(table: StudyTable) -> str:
    if not table.judged:
        return "Nobody is marked as collapsed: how the outputs of oracle or target read was not measured."
    marked = ", ".join(f"{row.name} ({row.collapsed})" for row in table.rows if row.collapsed)
    return f"{RULE}: {marked or 'nobody here'}."


def _differences(table: StudyTable) -> list[str]:
    baseline = table.spec.baseline
    if baseline is None:
        return []
    found = [cell for cell in table.cells if cell.difference is not None]
    if not found:
        return [f"No differences: no other method has a primary column and a seed in common with {baseline}.", *table.skipped]
    notes = [
        f"Δ: per-seed differences to {baseline}, mean [95 % interval, Student's t with n - 1 degrees of freedom], two-sided p "
        "after Holm over the methods of a column."
    ]
    drawn = sorted({cell.clustered.units for cell in found if cell.clustered is not None})
    if drawn:
        units = str(drawn[0]) if len(drawn) == 1 else f"{drawn[0]} to {drawn[-1]}"
        notes.append(
            f"Over subjects: 95 % interval of the same difference if {units} subjects (authors, where the benchmark names them, "
            f"else single questions) are drawn with replacement, {table.spec.resamples} times, and aggregates computed anew."
        )
    return [*notes, *table.skipped]


def _limits(table: StudyTable) -> list[str]:
    seeds = [row.seeds for row in table.rows if row.role == "method"]
    notes = []
    if seeds and min(seeds) < FEW:
        notes.append(
            f"With fewer than {FEW} seeds, spread, intervals and p are descriptive: they prove nothing about other seeds."
        )
    if table.spec.shared_target and max(seeds, default=0) > 1:
        notes.append("All seeds start from one target, so what another target would change is in no spread here.")
    return notes


def _published(table: StudyTable) -> list[str]:
    return [
        f"Published, {row.name}, {column.column.name}: {cell.verdict.sentence.rstrip('.')}."
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell is not None and cell.verdict is not None
    ]


def _left_out(table: StudyTable) -> list[str]:
    return [f"Not in the table: {name}: {why}." for name, why in table.spec.left_out.items()]


def _names(table: StudyTable) -> list[str]:
    shown = (column.shown for column in table.columns)
    meanings = dict.fromkeys(f"{column.name} = {column.meaning}" for column in shown if column.meaning)
    return [f"{'; '.join(meanings)}."] if meanings else []
