"""What a study shows so far: its table, its trials, and where both are written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import flat_settings, read_json, write_text
from utils.report.columns import Column, Map, read_display
from utils.report.markdown import table as markdown_table
from utils.studies.planning import Plan
from utils.studies.study import Entry, Study
from utils.tables.figures import TrialPoint, draw_map, draw_trials
from utils.tables.measured import MeasuredCell
from utils.tables.published import Verdict, verdict
from utils.tables.table import StudyColumn, StudyTable, TableSpec, make_table, study_columns
from utils.tables.writers import markdown, write_table

SEEDS = {"models": "finetuning", "regions": "locating", "rows": "unlearning"}


@dataclass(frozen=True)
class Shown:
    """A verdict beside a cell of the table, with the value as it was printed."""

    words: str
    published: str | None
    difference: float | None
    sentence: str


def outcome(plan: Plan) -> StudyTable | None:
    """The table of what is done; None while nothing is. Raises ValueError for columns or published rows that there are not."""
    cells = plan.measured()
    if not cells:
        return None
    study, declared = plan.study, _declared(plan, cells)
    measured = {name for cell in cells for name in cell.metrics}
    entries = study.columns or [column.name for column in declared if column.metric in measured]
    columns = study_columns(entries, declared, list(study.evaluations))
    labels = {entry.name: entry.label for entry in study.entries.values()}
    spec = TableSpec(
        title=study.title,
        columns=columns,
        primary=primary_columns(study, columns),
        baseline=None if study.baseline is None else labels[study.baseline],
        plain=next(iter(study.evaluations)),
        settings=settings_sentence(plan),
        shared_target=all(len(entry.seeds) == 1 for entry in study.of_kind("models") if entry.role == "target"),
        verdicts=_verdicts(plan, cells, [column.column for column in columns]),
        left_out=left_out(plan),
    )
    return make_table(cells, spec)


def write_outcome(plan: Plan, folder: Path) -> list[Path]:
    """Writes the table in all its forms, and trials.md where there was tuning; their paths, none while nothing is done."""
    made = outcome(plan)
    if made is None:
        return []
    paths = [*write_table(made, folder), *_drawn(plan, made, folder)]
    write_text(folder / "table.md", page(plan, made))
    if plan.tune is not None:
        write_text(folder / "trials.md", trials_page(plan))
        paths.append(folder / "trials.md")
    return paths


def page(plan: Plan, made: StudyTable) -> str:
    """The content of table.md: the table, its pictures, and what the study's file says about what it shows."""
    pictures = ["", "![map](map.svg)"] if _map(plan) is not None else []
    if plan.tune is not None:
        pictures += ["", "![trials](trials.svg)", "", "All trials: [trials.md](trials.md)"]
    read = ["", "## What it shows", "", "\n\n".join(plan.study.reading)] if plan.study.reading else []
    return markdown(made) + "\n".join([*pictures, *read]) + ("\n" if pictures or read else "")


def _drawn(plan: Plan, made: StudyTable, folder: Path) -> list[Path]:
    axes, tune = _map(plan), plan.tune
    paths = draw_map(made, axes, folder) if axes is not None else []
    if tune is None:
        return paths
    points = []
    for entry in plan.study.of_kind("rows"):
        choices = plan.choices.get(entry.name, {})
        chosen = {choice.chosen.trial for choice in choices.values()}
        for number in {one.trial for choice in choices.values() for one in choice.judged}:
            judged = [one for choice in choices.values() for one in choice.judged if one.trial == number]
            distance, kept = (statistics.mean(getattr(one, key) for one in judged) for key in ("distance", "kept"))
            points.append(TrialPoint(entry.label, distance, kept, number in chosen))
    return [*paths, *draw_trials(plan.study.title, points, tune.kept, tune.share, folder)]


def _map(plan: Plan) -> Map | None:
    return read_display(str(plan.study.common.get("benchmark"))).map


def settings_sentence(plan: Plan) -> str:
    """How all of it was made, seeds of each kind included."""
    study, parts = plan.study, []
    shared = {**study.common}
    parts.append(", ".join(f"{key} {value}" for key, value in shared.items()))
    for role in ("target", "oracle"):
        seeds = [seed for entry in study.of_kind("models") if entry.role == role and entry.script for seed in entry.seeds]
        if seeds:
            parts.append(f"{role}: {_counted(seeds)}")
    if any(entry.script for entry in study.of_kind("rows")):
        parts.append(f"unlearning: {_counted(study.seeds)}")
    if plan.tune is not None:
        tune = plan.tune
        where = "on all subjects" if tune.folds == 1 else f"cross-fitted over {tune.folds} parts of the subjects"
        steps = "equal steps" if tune.equal == "steps" else "steps not equal"
        parts.append(
            f"tuned: {tune.budget} trials each over {', '.join(tune.space)} ({steps}; {_counted(tune.seeds)}), chosen {where}: "
            f"nearest to the oracle in {', '.join(tune.near)} among trials that keep {tune.share:.0%} of the target's "
            f"{tune.kept}"
        )
    return "; ".join(part for part in parts if part)


def left_out(plan: Plan) -> dict[str, str]:
    """Rows and seeds without numbers -> why: failed cells stay visible."""
    found: dict[str, str] = {}
    for name, state in plan.states.items():
        if state.word == "failed":
            found[name] = state.told
    for cell in plan.graph.evaluations():
        if (why := plan.archive.failures.get(cell.folder.name)) is not None and cell.name not in found:
            found.setdefault(cell.needs[0] if cell.needs else cell.name, why)
    for row in plan.waiting:
        found[row] = "its trials are not done"
    return found


def trials_page(plan: Plan) -> str:
    """Every trial of every row: settings, tokens that it read, how near it came to the oracle, what it kept, who chose it."""
    assert plan.tune is not None
    tune, lines = plan.tune, [f"# Trials: {plan.study.title}", ""]
    kept = f"share of the target's {tune.kept}"
    header = ["row", "trial", *tune.space, "tokens read", "distance to the oracle", kept, "chosen"]
    rows = []
    for entry in plan.study.of_kind("rows"):
        if not tune.tunes(entry):
            continue
        for number in range(len(tune.trials(entry))):
            rows.append([entry.label, str(number), *_trial_cells(plan, entry, number)])
    lines += [markdown_table(header, rows), "", _how_to_read(plan)]
    return "\n".join(lines) + "\n"


def _trial_cells(plan: Plan, entry: Entry, number: int) -> list[str]:
    assert plan.tune is not None
    cells = [str(plan.setting(entry, number, key)) for key in plan.tune.space]
    cells.append(_tokens(plan, entry, number))
    choices = plan.choices.get(entry.name)
    if choices is None:
        return [*cells, "", "", "not done"]
    judged = [one for choice in choices.values() for one in choice.judged if one.trial == number]
    if not judged:
        return [*cells, "", "", f"failed: {_why_failed(plan, entry, number)}"]
    cells.append(", ".join(f"{one.distance:.4f}" for one in judged))
    cells.append(", ".join(f"{one.kept:.3f}{'' if one.admissible else ' (too little)'}" for one in judged))
    chosen = [f"part {fold + 1}" for fold, choice in choices.items() if choice.chosen.trial == number]
    return [*cells, "yes" if chosen and len(choices) == 1 else " and ".join(chosen)]


def _why_failed(plan: Plan, entry: Entry, number: int) -> str:
    cells = [cell for cell in plan.graph.evaluations() if (cell.entry.name, cell.trial) == (entry.name, number)]
    return next((why for cell in cells if (why := plan.failure(cell)) is not None), "")


def _tokens(plan: Plan, entry: Entry, number: int) -> str:
    found = []
    for cell in plan.graph.cells.values():
        if cell.entry.name == entry.name and cell.trial == number and cell.seed in (plan.tune.seeds if plan.tune else ()):
            capsule = read_json(cell.folder / "run.json") or {}
            if cell.evaluation is not None:
                capsule = plan.archive.lines.get(cell.folder.name, {}).get("training") or {}
            found += [capsule["tokens"]] if "tokens" in capsule else []
    return f"{found[0]:,}" if found else ""


def _how_to_read(plan: Plan) -> str:
    assert plan.tune is not None
    tune = plan.tune
    words = (
        f"Distance: mean of |{' - oracle|, |'.join(tune.near)} - oracle|. The rule takes the nearest trial that keeps "
        f"{tune.share:.0%} of the target's {tune.kept}, of equals the earlier; if none keeps it, the one with the most. "
        "It looks at the oracle. Trial 0 is the row's own setting."
    )
    parts = " Several numbers are of the subjects that chose for part 1, part 2 and so on, each on all other parts."
    return words if tune.folds == 1 else words + parts


def _declared(plan: Plan, cells: Sequence[MeasuredCell]) -> Sequence[Column]:
    capsule = read_json(cells[0].folder / "run.json") or {}
    return read_display(str(capsule.get("settings", {}).get("benchmark", {}).get("name"))).columns


def primary_columns(study: Study, columns: Sequence[StudyColumn]) -> list[str]:
    """Names of the primary columns, which a study may name by metric too."""
    names = {column.column.metric: column.column.name for column in reversed(columns)}
    return [names.get(name, name) for name in study.primary]


def _verdicts(plan: Plan, cells: Sequence[MeasuredCell], columns: Sequence[Column]) -> dict[tuple[str, str], Shown]:
    table, plain = plan.study.published_table, next(iter(plan.study.evaluations))
    if table is None:
        return {}
    found: dict[tuple[str, str], Shown] = {}
    for entry in plan.study.entries.values():
        own = [cell for cell in cells if cell.row == entry.label and cell.evaluation == plain]
        theirs = plan.study.published_row(entry)
        if not own or theirs is None:
            continue
        for column in columns:
            metrics = [cell.metrics[column.metric] for cell in own if column.metric in cell.metrics]
            if metrics:
                cell = table.cell(theirs, column.metric)
                told = verdict(metrics, cell, _all_settings(plan, own[0]), deterministic=entry.role == "log")
                found[entry.label, column.name] = _shown(told, cell.printed)
    return found


def _shown(told: Verdict, printed: str | None) -> Shown:
    return Shown(told.word, printed, told.difference, told.sentence)


def _all_settings(plan: Plan, cell: MeasuredCell) -> dict[str, Any]:
    """Settings of the evaluation over those of the training that made its model."""
    capsule = read_json(cell.folder / "run.json") or {}
    evaluation = flat_settings(capsule.get("settings", {}))
    training = read_json(Path(str(evaluation.get("model.path"))) / "run.json")
    if training is None:
        name = cell.folder.name
        line = next((line for line in plan.archive.lines.values() if name.startswith(line["folder"])), {})
        training = line.get("training")
    return {**flat_settings((training or {}).get("settings", {})), **evaluation}


def _counted(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
