"""From measured cells to a grouped table: a row per method with its spread over seeds, and what stands beside each number.

    mean ± sd over seeds, n       of every column. A p-value has no mean: its test's statistic does, and the p-values and their
                                  places among oracles of other seeds are shown as ranges
    difference to the baseline    of primary columns: per seed, with a t test after Holm over methods, and drawn over subjects
    drop                          of other evaluations (probes): the plain number minus this one, per seed
    published                     the printed value and whether ours agrees, where the study names a published table
    best                          the best method that is not collapsed, by printed digits; ties share it
    collapsed                     answers are empty or repeat themselves far more than those of the oracle, else of the target

Everything is decided here, once; caption.py says how to read it, writers.py only writes it down.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from utils.checks import did_you_mean_or_all
from utils.items.metric import Metric
from utils.report.collapse import collapse, says_how_it_reads
from utils.report.columns import Column
from utils.tables.measured import MeasuredCell, Role
from utils.tables.statistics import (
    ClusteredDifference,
    SeedDifference,
    Spread,
    clustered_difference,
    holm,
    paired_t,
    spread,
)

ROLES: tuple[Role, ...] = ("untouched", "target", "oracle", "method", "relearned", "log")
JUDGED: tuple[Role, ...] = ("method", "relearned", "log")  # rows that may have collapsed
PLAIN = "plain"
_OPPOSITE = {"high": "low", "low": "high"}  # a p-value falls as its statistic rises

Seed = int | None


class Verdict(Protocol):
    """What a published table says of a cell: the value as it was printed, how ours stands to it, and where that comes from.

    difference: ours minus theirs, None where nothing can be compared; sentence: with source and tolerance.
    """

    words: str
    published: str | float | None
    difference: float | None
    sentence: str


@dataclass(frozen=True)
class StudyColumn:
    """A column of the table: a number of one evaluation."""

    column: Column
    evaluation: str = PLAIN

    @property
    def shown(self) -> Column:
        """What has a mean: the column itself, or the statistic behind its p-value."""
        column = self.column
        if column.statistic is None:
            return column
        return replace(
            column,
            name=f"{column.name}: D",
            metric=column.statistic,
            meaning=f"statistic behind {column.words}",
            better=_OPPOSITE.get(column.better, column.better),
            scale="share",
            statistic=None,
            placement=None,
        )

    @property
    def has_mean(self) -> bool:
        return not self.shown.is_p_value


@dataclass(frozen=True)
class TableSpec:
    """What is shown of the cells, and how.

    plain: the evaluation that others are compared with. primary: names of the columns that are tested against the row `baseline`.
    settings: a sentence that says how all of it was made. shared_target: all seeds of a method start from one target. verdicts:
    (row, name of column) -> what a published table says. left_out: what has no numbers -> why. resamples: of the subjects.

    Raises ValueError for a primary column that there is not, and for two columns of the same name and evaluation.
    """

    title: str
    columns: Sequence[StudyColumn]
    primary: Sequence[str] = ()
    baseline: str | None = None
    plain: str = PLAIN
    settings: str = ""
    shared_target: bool = True
    verdicts: Mapping[tuple[str, str], Verdict] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    resamples: int = 1000

    def __post_init__(self) -> None:
        names = [(column.column.name, column.evaluation) for column in self.columns]
        for name, evaluation in names:
            if names.count((name, evaluation)) > 1:
                raise ValueError(f"columns: two have the name {name} in the evaluation {evaluation}")
        for name in self.primary:
            if name not in {name for name, _ in names}:
                raise ValueError(
                    f"primary={name}: there is no such column{did_you_mean_or_all(name, [name for name, _ in names])}"
                )


@dataclass(frozen=True)
class TableCell:
    """A number of one row. cells: seed -> where it was measured; spread: None where it has no mean.

    drop, difference, p_holm, clustered: as the head of this file says, where they apply. p_values, placements: least and largest
    over seeds. verdict: of the published value.
    """

    cells: Mapping[Seed, MeasuredCell]
    spread: Spread | None = None
    best: bool = False
    drop: SeedDifference | None = None
    difference: SeedDifference | None = None
    p_holm: float | None = None
    clustered: ClusteredDifference | None = None
    p_values: tuple[float, float] | None = None
    placements: tuple[float, float] | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class TableRow:
    """collapsed: why the row is marked, "" where it is not. cells: in the order of the columns, None: not measured."""

    name: str
    role: Role
    settings: str
    seeds: int
    collapsed: str
    cells: Sequence[TableCell | None]


@dataclass(frozen=True)
class StudyTable:
    """columns: those of the spec, and primary ones of other evaluations. skipped: why a difference is missing, a sentence each.
    judged: whether it is known how the outputs read.
    """

    spec: TableSpec
    columns: Sequence[StudyColumn]
    rows: Sequence[TableRow]
    skipped: Sequence[str]
    judged: bool

    @property
    def cells(self) -> list[TableCell]:
        return [cell for row in self.rows for cell in row.cells if cell is not None]


def study_columns(entries: Sequence[Any], declared: Sequence[Column], evaluations: Sequence[str] = (PLAIN,)) -> list[StudyColumn]:
    """Columns of a study file: the name or metric of a declared column, any other metric, or a mapping with the fields of a
    column and `evaluation`, the first one unless said otherwise.

    Raises ValueError naming the entry for another field, and for an evaluation that there is not.
    """
    known = {column.metric: column for column in declared} | {column.name: column for column in declared}
    return [_study_column(f"columns[{place}]", entry, known, evaluations) for place, entry in enumerate(entries)]


def make_table(cells: Sequence[MeasuredCell], spec: TableSpec) -> StudyTable:
    """The table of these cells. Raises ValueError where two cells are the same one, or a row has two roles."""
    rows = _grouped(cells)
    reference = _reference(rows, spec.plain)
    judged = {name: _readings(row, spec.plain) for name, row in rows.items() if row.role in JUDGED}
    collapsed = {name: why for name, own in judged.items() if (why := collapse(own, reference))}
    columns, skipped = list(_with_probes(spec, cells)), []
    by_column = [_cells_of(column, rows, collapsed.keys(), spec, skipped) for column in columns]
    shown = [
        TableRow(
            name,
            rows[name].role,
            _settings(rows[name].cells.values()),
            len({seed for _, seed in rows[name].cells}),
            collapsed.get(name, ""),
            [of_rows.get(name) for of_rows in by_column],
        )
        for name in sorted(rows, key=lambda name: ROLES.index(rows[name].role))
    ]
    return StudyTable(spec, columns, shown, skipped, bool(reference))


@dataclass(frozen=True)
class Measured:
    """The cells of a row, by evaluation and seed."""

    role: Role
    cells: dict[tuple[str, Seed], MeasuredCell]

    def numbers(self, evaluation: str, metric: str) -> dict[Seed, Metric]:
        """Seed -> the number, where it was measured."""
        found = {seed: cell.metrics.get(metric) for (asked, seed), cell in self.cells.items() if asked == evaluation}
        return {seed: number for seed, number in found.items() if number is not None}

    def values(self, evaluation: str, metric: str) -> dict[Seed, float]:
        return {seed: number.value for seed, number in self.numbers(evaluation, metric).items()}


def _study_column(key: str, entry: Any, known: Mapping[str, Column], evaluations: Sequence[str]) -> StudyColumn:
    if isinstance(entry, str):
        return StudyColumn(known.get(entry, Column(entry, entry, scale="free")), evaluations[0])
    if not isinstance(entry, Mapping) or not isinstance(entry.get("metric", entry.get("name")), str):
        raise ValueError(f"{key}={entry}: write the name of a metric, or a mapping with metric")
    valid = [*(entry_field.name for entry_field in fields(Column)), "evaluation"]
    for name in entry:
        if name not in valid:
            raise ValueError(f"{key}: there is no key {name}{did_you_mean_or_all(name, valid)}")
    evaluation = entry.get("evaluation", evaluations[0])
    if evaluation not in evaluations:
        raise ValueError(
            f"{key}.evaluation={evaluation}: there is no such evaluation{did_you_mean_or_all(evaluation, evaluations)}"
        )
    metric = entry.get("metric", entry.get("name"))
    base = known.get(metric, Column(metric, metric, scale="free"))
    given = {name: value for name, value in entry.items() if name not in ("metric", "evaluation")}
    try:
        return StudyColumn(replace(base, **given), evaluation)
    except ValueError as error:
        raise ValueError(f"{key}.{error}") from error


def _grouped(cells: Sequence[MeasuredCell]) -> dict[str, Measured]:
    rows: dict[str, Measured] = {}
    for cell in cells:
        row = rows.setdefault(cell.row, Measured(cell.role, {}))
        if cell.role != row.role:
            raise ValueError(f"row {cell.row} is a {row.role}, but a {cell.role} in {cell.folder}: give it one role")
        place = (cell.evaluation, cell.seed)
        if place in row.cells:
            folders = f"{row.cells[place].folder} and {cell.folder}"
            raise ValueError(f"row {cell.row} has seed {cell.seed} of evaluation {cell.evaluation} twice, in {folders}")
        row.cells[place] = cell
    return rows


def _with_probes(spec: TableSpec, cells: Sequence[MeasuredCell]) -> Iterator[StudyColumn]:
    """The columns; behind each primary one its other evaluations, of those that no column names."""
    named = {column.evaluation for column in spec.columns}
    probes = [name for name in dict.fromkeys(cell.evaluation for cell in cells) if name not in named | {spec.plain}]
    for column in spec.columns:
        yield column
        if column.column.name in spec.primary and column.evaluation == spec.plain:
            yield from (replace(column, evaluation=probe) for probe in probes)


def _cells_of(
    column: StudyColumn, rows: Mapping[str, Measured], collapsed: Collection[str], spec: TableSpec, skipped: list[str]
) -> dict[str, TableCell]:
    """Row -> its cell of this column, where it was measured. skipped: gets a sentence for each difference without a value."""
    found = {name: cell for name, row in rows.items() if (cell := _cell(column, row, spec.plain)) is not None}
    best = _best(column, {name: cell.spread for name, cell in found.items()}, rows, collapsed)
    verdicts = spec.verdicts if column.evaluation == spec.plain else {}
    found = {
        name: replace(cell, best=name in best, verdict=verdicts.get((name, column.column.name))) for name, cell in found.items()
    }
    if column.column.name in spec.primary and column.has_mean and spec.baseline in found:
        compared = {name: cell for name, cell in found.items() if rows[name].role == "method" and name != spec.baseline}
        found |= _differences(column, rows, compared, spec, skipped)
    return found


def _cell(column: StudyColumn, row: Measured, plain: str) -> TableCell | None:
    values, p_values, placements = (
        {} if metric is None else row.values(column.evaluation, metric)
        for metric in (column.shown.metric, column.column.metric if column.column.is_p_value else None, column.column.placement)
    )
    if not values and not p_values:
        return None
    otherwise = row.values(plain, column.shown.metric) if column.has_mean and column.evaluation != plain else {}
    return TableCell(
        {seed: row.cells[column.evaluation, seed] for seed in (values or p_values)},
        spread(list(values.values())) if column.has_mean and values else None,
        drop=paired_t(values, otherwise) if values.keys() & otherwise.keys() else None,
        p_values=_ends(p_values),
        placements=_ends(placements),
    )


def _ends(values: Mapping[Seed, float]) -> tuple[float, float] | None:
    return (min(values.values()), max(values.values())) if values else None


def _best(
    column: StudyColumn, spreads: Mapping[str, Spread | None], rows: Mapping[str, Measured], collapsed: Collection[str]
) -> set[str]:
    """The best methods; nobody where all of several agree, or there is only one."""
    means = {name: known.mean for name, known in spreads.items() if known is not None and not math.isnan(known.mean)}
    aim = next((mean for name, mean in means.items() if rows[name].role == "oracle"), None)
    methods = [name for name in means if rows[name].role == "method"]
    best = column.shown.best({name: means[name] for name in methods if name not in collapsed}, aim)
    return best if len(best) < len(methods) else set()


def _differences(
    column: StudyColumn, rows: Mapping[str, Measured], cells: Mapping[str, TableCell], spec: TableSpec, skipped: list[str]
) -> dict[str, TableCell]:
    """The cells of methods with their differences to the baseline."""
    place = (column.evaluation, column.shown.metric)
    base, changed = rows[str(spec.baseline)].numbers(*place), dict(cells)
    for name, cell in cells.items():
        own = rows[name].numbers(*place)
        shared = [seed for seed in base if seed in own]
        if not shared:
            skipped.append(f"No difference of {name} in {column.shown.name}: it has no seed in common with {spec.baseline}.")
            continue
        values = ({seed: metrics[seed].value for seed in shared} for metrics in (base, own))
        changed[name] = replace(cell, difference=paired_t(*values))
        try:
            drawn = clustered_difference([base[seed] for seed in shared], [own[seed] for seed in shared], spec.resamples)
            changed[name] = replace(changed[name], clustered=drawn)
        except ValueError as error:
            skipped.append(f"No interval over subjects of {name} in {column.shown.name}: {error}.")
    p_values = {name: cell.difference.p for name, cell in changed.items() if cell.difference and cell.difference.p is not None}
    return changed | {name: replace(changed[name], p_holm=p) for name, p in holm(p_values).items()}


def _readings(row: Measured, plain: str) -> dict[str, float]:
    """How the answers read: number -> mean over seeds."""
    names = {name for cell in row.cells.values() for name in cell.metrics if says_how_it_reads(name)}
    return {name: spread(list(values)).mean for name in sorted(names) if (values := row.values(plain, name).values())}


def _reference(rows: Mapping[str, Measured], plain: str) -> dict[str, float]:
    """How the answers of the oracle read, else of the target; nothing where neither was asked."""
    for role in ("oracle", "target"):
        for row in rows.values():
            if row.role == role and (found := _readings(row, plain)):
                return found
    return {}


def _settings(cells: Sequence[MeasuredCell]) -> str:
    """The settings of a row; where seeds have different ones, all of them."""
    told = dict.fromkeys(", ".join(f"{key} {_short(value)}" for key, value in cell.settings.items()) for cell in cells)
    return " or ".join(words for words in told if words)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
