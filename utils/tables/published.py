"""Published values, and whether a measured one agrees: config/published/<source>.yaml holds the tables, `verdict` compares.

A file holds tables by name; `<source>/<table>` is the id of one. Beside anchors (keys that begin with a dot) each table has

    source       paper or repository, and its table
    second_hand  in whose transcription it was read, where the source itself was not
    setting      dotted key -> value: what the settings of a run must agree with; a list: with one of them
    training     the same, of rows that were unlearned
    unreached    what the source fixes or leaves open and no setting of ours reaches: nothing is `within` such a table
    unread       why there are no values, or no other rows than these, where nobody could read them
    note         anything else that a reader should know
    runs         over how many runs a printed value is the mean, 1 unless said otherwise
    columns      published name -> metric (its key in metrics.json, null: not measured here), unit (share | percent | p |
                 perplexity | number),
                 measured_in (share | percent, where ours differs), decimals (printed), complement (true: 1 minus ours is printed)
    ours         published row -> target, oracle, the name of a method, or settings that make it
    rows         published row -> its values as printed, in the order of the columns
    remarks      published row -> column -> what is odd about the value

A value is written as it was printed, and stands for all numbers that would be printed so:

    0.63  5.87e-14      half a unit of the last digit to both sides; `decimals` counts zeros that were lost
    >1e10  <0.01        a bound, one-sided
    10^4                an order of magnitude: half a decade to both sides
    ~1                  read off a picture: a whole unit of the last digit
    sic:0.95            printed, but impossible: nothing is compared with it
    NM                  printed as not meaningful
    -                   nothing printed, or not read
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from scipy.stats import t as student
from yaml import YAMLError

from utils import ROOT
from utils.checks import choose, declared, did_you_mean, did_you_mean_or_all, first_line, require
from utils.items.metric import LEVEL, Interval, Metric

FOLDER = ROOT / "config" / "published"
NOISE = 1e-9  # relative: what sums in another order differ by
SMALLEST = 1e-300  # a p-value of 0 has no logarithm
UNITS = {"share": 1.0, "percent": 100.0, "p": 1.0, "perplexity": 1.0, "number": 1.0}  # a share of 1 in this unit
LOGS = ("p", "perplexity")  # units whose values are compared by their logarithms
ROLES = ("target", "oracle")
NUMBER = r"-?\d+(?:\.(?P<decimals>\d+))?(?:e(?P<exponent>[+-]?\d+))?"

Word = Literal["within", "differs", "another setting", "no published value"]


@dataclass(frozen=True)
class Printed:
    """A printed value, and the range of numbers that would be printed so. logs: they are compared by their logarithms."""

    value: float
    low: float
    high: float
    logs: bool = False


@dataclass(frozen=True)
class Column:
    """A published column: what of ours it is, and how it was printed (the head of this file)."""

    name: str
    metric: str | None
    unit: str = "share"
    measured_in: str | None = None
    decimals: int = 0
    complement: bool = False

    def __post_init__(self) -> None:
        choose(f"{self.name}.unit", self.unit, UNITS)
        choose(f"{self.name}.measured_in", self.measured_in, (None, "share", "percent"))

    def converted(self, value: float) -> float:
        """One of our numbers in the unit that was printed."""
        ours = UNITS[self.measured_in or self.unit]
        return (ours - value if self.complement else value) * UNITS[self.unit] / ours


@dataclass(frozen=True)
class Table:
    """A published table, as the head of this file says. id: <source>/<table>."""

    id: str
    source: str
    columns: Mapping[str, Column]
    second_hand: str = ""
    setting: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    unreached: Sequence[str] = ()
    unread: str = ""
    note: str = ""
    runs: int = 1
    ours: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row, line in self.rows.items():
            require(len(line.split()) == len(self.columns), f"rows.{row}", line, f"{len(self.columns)} values, one per column")
            for column, text in self.values(row).items():
                read_printed(text, self.columns[column].decimals)
        for row in (*self.ours, *self.remarks):
            if row not in self.rows:
                raise ValueError(f"{row}: there is no such row{did_you_mean_or_all(row, self.rows)}")
        for column in {column for remarks in self.remarks.values() for column in remarks}:
            if column not in self.columns:
                raise ValueError(f"remarks: there is no column {column}{did_you_mean_or_all(column, self.columns)}")

    def values(self, row: str) -> dict[str, str]:
        """Published column -> value as printed."""
        return dict(zip(self.columns, self.rows[row].split(), strict=True))

    def has(self, name: str) -> bool:
        """Whether a row has that name, or is ours of that name."""
        return bool(self._rows_of(name))

    def row_of(self, name: str) -> str:
        """The published row of that name, or the only one that is ours of that name: a method, target or oracle.

        Raises ValueError for none, and for a name of ours that several rows share.
        """
        found = self._rows_of(name)
        if len(found) > 1:
            raise ValueError(f"published.rows={name}: {self.id} has it as {' and as '.join(found)}; name one of these")
        if not found:
            raise ValueError(f"published.rows={name}: {self.id} has no such row{did_you_mean_or_all(name, self.rows)}")
        return found[0]

    def cell(self, name: str, metric: str) -> Cell:
        """The value of a row (`row_of`) for a metric of ours, or for a published column.

        A metric that was not published, and a row that nobody could read, give a cell without a value.
        """
        column = self.columns.get(metric) or next((c for c in self.columns.values() if c.metric == metric), None)
        if self.unread and not self._rows_of(name):
            return Cell(self, name, column or Column(metric, metric), None, why=self.unread)
        row = self.row_of(name)
        if column is None:
            return Cell(self, row, Column(metric, metric), None, why=f"{self.id} has no such column")
        text, remark = self.values(row)[column.name], self.remarks.get(row, {}).get(column.name, "")
        if read_printed(text, column.decimals) is None:
            return Cell(self, row, column, None, why=_without(text, remark))
        return Cell(self, row, column, text, self.setting_of(row), remark=remark)

    def _rows_of(self, name: str) -> list[str]:
        """The published row of that name, else those that are ours of that name."""
        if name in self.rows:
            return [name]
        return [row for row in self.rows if name in (self.ours.get(row), self.setting_of(row).get("method.name"))]

    def setting_of(self, row: str) -> dict[str, Any]:
        """What a run has to agree with to stand beside a row."""
        ours = self.ours.get(row)
        if ours in ROLES:
            return dict(self.setting)
        own = {"method.name": ours} if isinstance(ours, str) else ours or {}
        return {**self.setting, **self.training, **own}


@dataclass(frozen=True)
class Cell:
    """One published value with what a run has to agree with. printed: as it was; None: there is none, and `why`."""

    table: Table
    row: str
    column: Column
    printed: str | None
    setting: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Verdict:
    """How a measured value stands to a published one, in a word and in a sentence that states the tolerance.

    difference: measured minus published, in the printed unit; of p-values, perplexities, bounds and powers of ten the logarithms
                to base 10 are subtracted
    tolerance:  how large it may be: rounding of the print and uncertainty of the measurement, on the side of the published value
    settings:   keys in which the run is another one than the published
    """

    word: Word
    sentence: str
    difference: float | None = None
    tolerance: float | None = None
    settings: Sequence[str] = ()


def published_tables(folder: Path = FOLDER) -> list[str]:
    """Ids of all published tables."""
    return [f"{path.stem}/{name}" for path in sorted(folder.glob("*.yaml")) for name in _read(path)]


def published_table(name: str, folder: Path = FOLDER) -> Table:
    """The table of an id. Raises ValueError for an id that there is not, and for a file that does not say what a table needs."""
    known = published_tables(folder)
    if name not in known:
        raise ValueError(f"published.table={name}: there is no such published table{did_you_mean_or_all(name, known)}")
    source, table = name.split("/", 1)
    path = folder / f"{source}.yaml"
    try:
        return _table(name, _read(path)[table])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {table}: {first_line(error).removeprefix('Table.__init__() ').removeprefix('.')}") from None


def verdict(metrics: Sequence[Metric], cell: Cell, settings: Mapping[str, Any], deterministic: bool = False) -> Verdict:
    """Whether what was measured agrees with what was published.

    The rule: the print stands for a range (rounding), the measurement for an interval (`_measured`); they agree if both overlap.
    metrics: one per seed. settings: dotted key -> value of the evaluation, over those of the training. deterministic: of logs
    that were only computed again, whose questions and seeds are the published ones, so that rounding alone may differ.
    Raises ValueError for no metrics.
    """
    printed = None if cell.printed is None else read_printed(cell.printed, cell.column.decimals)
    if printed is None:
        return Verdict("no published value", f"no published value: {cell.why}")
    logs = printed.logs or cell.column.unit in LOGS
    place = _log10 if logs else float
    value, (low, high), over = _measured(metrics, cell, deterministic, logs)
    edges = (printed.high, low) if value > printed.value else (printed.low, high)
    gaps = [0.0 if a == b else abs(place(a) - place(b)) for a, b in zip((printed.value, value), edges, strict=True)]
    difference, tolerance = place(value) - place(printed.value), sum(gaps)
    sign = " %" if cell.column.unit == "percent" else ""
    asides = [cell.remark, f"second-hand: {cell.table.second_hand}" if cell.table.second_hand else ""]
    said = (
        f"{value:.6g}{sign}{over} against {cell.printed}{sign} in {cell.table.id}, which stands for {_range(printed)}"
        f"{''.join(f' ({aside})' for aside in asides if aside)}"
    )
    keys, words = _another(cell, settings)
    if words:
        return Verdict("another setting", f"another setting, {'; '.join(words)}: {said}", difference, tolerance, keys)
    if low <= printed.high and high >= printed.low:
        return Verdict("within", f"within: {said}", difference, tolerance)
    by = f"a factor of {_power(difference):.3g}" if logs else f"{difference:+.3g}{sign}"
    return Verdict("differs", f"differs by {by}: {said}", difference, tolerance)


def read_printed(text: str, decimals: int = 0) -> Printed | None:
    """What a printed value stands for; None for one that nothing is compared with. decimals: of its column, at least.

    Raises ValueError for a text that is none of those in the head of this file.
    """
    if text in ("-", "NM") or re.fullmatch(f"sic:{NUMBER}", text):
        return None
    if power := re.fullmatch(r"10\^(-?\d+)", text):
        return Printed(*(10.0 ** (int(power[1]) + off) for off in (0, -0.5, 0.5)), logs=True)
    found = re.fullmatch(rf"(?P<sign>[<>~]?)(?P<number>{NUMBER})", text)
    if found is None:
        raise ValueError(f"value {text}: write a number as it was printed, or one of the forms of {Path(__file__).name}")
    value, sign = float(found["number"]), found["sign"]
    if sign in ("<", ">"):
        return Printed(value, *((value, math.inf) if sign == ">" else (-math.inf, value)), logs=value > 0)
    exponent = int(found["exponent"] or 0)
    places = len(found["decimals"] or "") - exponent
    unit = 10.0 ** -(places if exponent else max(places, decimals))
    half = (unit if sign == "~" else unit / 2) + NOISE * abs(value)
    return Printed(value, value - half, value + half)


def _without(text: str, remark: str) -> str:
    """Why nothing is compared with a printed text."""
    if text == "-":
        return remark or "nothing stands there, or it was not read"
    printed = "printed as NM, not meaningful" if text == "NM" else f"printed as {text.removeprefix('sic:')}, which cannot be"
    return f"{printed}{': ' + remark if remark else ''}"


def _measured(metrics: Sequence[Metric], cell: Cell, deterministic: bool, logs: bool) -> tuple[float, Interval, str]:
    """The measured value in the printed unit, its 95 % interval, and in words what that is over.

    One run: over its questions; of a log that was computed again, none. Several seeds: `_further_runs`, with `logs` of their
    logarithms. p-values are never averaged: the median of the seeds, and their range.
    """
    if not metrics:
        raise ValueError("verdict: there is no metric; pass one per seed")
    values = np.array([cell.column.converted(metric.value) for metric in metrics])
    if len(values) > 1 and cell.column.unit == "p":
        ends = float(values.min()), float(values.max())
        return float(np.median(values)), ends, f" ({ends[0]:.4g} to {ends[1]:.4g}: median and range of {len(values)} seeds)"
    if len(values) > 1:
        places = np.array([_log10(value) for value in values]) if logs else values
        found = _further_runs(places, cell.table.runs)
        value, low, high = map(_power, found) if logs else found
        return value, (low, high), f" ({low:.4g} to {high:.4g}: 95 % over {len(values)} seeds)"
    value = float(values[0])
    if deterministic:
        return value, (value, value), ""
    ends = [value, *map(cell.column.converted, metrics[0].ci95)]  # an interval of the bootstrap may leave out the value itself
    low, high = min(ends), max(ends)
    return value, (low, high), f" ({low:.4g} to {high:.4g}: 95 % over {metrics[0].n} items)"


def _further_runs(values: np.ndarray, runs: int) -> tuple[float, float, float]:
    """Mean of the seeds, (n,), and the ends of Student's 95 % prediction interval for the mean of `runs` further ones.

    A published value is itself the outcome of a few seeds: the interval of our mean alone would be too narrow for it.
    """
    mean, n = float(values.mean()), len(values)
    half = float(student.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) * math.sqrt(1 / n + 1 / runs))
    return mean, mean - half, mean + half


def _another(cell: Cell, settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Keys and words of what a run has otherwise than the published cell."""
    keys = [key for key, value in cell.setting.items() if not _agrees(settings.get(key), value)]
    words = [f"{key}={_shown(settings.get(key))} and not {_shown(cell.setting[key])}" for key in keys]
    data = next((key for key in ("benchmark.data_root", "data_root") if settings.get(key) == "fixture"), None)
    if data is not None:  # what is shipped here was never published on
        keys, words = [*keys, data], [*words, f"{data}=fixture"]
    return keys, [*words, *cell.table.unreached]


def _agrees(ours: Any, published: Any) -> bool:
    return ours in published if isinstance(published, list) else ours == published


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(map(_shown, value))
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _range(printed: Printed) -> str:
    if math.isinf(printed.high):
        return f"anything from {printed.low:.6g}"
    if math.isinf(printed.low):
        return f"anything up to {printed.high:.6g}"
    return f"{printed.low:.6g} to {printed.high:.6g}"


def _log10(value: float) -> float:
    return math.log10(max(value, SMALLEST))


def _power(place: float) -> float:
    """The number of a logarithm; one beyond all numbers is infinite."""
    return math.inf if place > sys.float_info.max_10_exp else 10.0**place


@cache
def _read(path: Path) -> dict[str, Any]:
    """The tables of a file. Raises ValueError for a file that cannot be read."""
    try:
        written = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: {first_line(error)}") from None
    tables = written if isinstance(written, dict) else {"": written}
    tables = {str(name): table for name, table in tables.items() if not str(name).startswith(".")}
    for name, table in tables.items():
        require(isinstance(table, dict), f"{path}: {name}", table, "the keys of a table below its name")
    return tables


def _table(name: str, written: Mapping[str, Any]) -> Table:
    """Raises ValueError for unknown keys and values of another type, TypeError for missing ones."""
    keys = [key for key in Table.__dataclass_fields__ if key != "id"]
    for key in written:
        if key not in keys:
            raise ValueError(f"there is no key {key}{did_you_mean(key, keys)}")
    columns = written.get("columns", {})
    require(isinstance(columns, Mapping), "columns", columns, "published names, each with its metric, unit and decimals")
    for column, options in columns.items():
        require(isinstance(options, Mapping), f"columns.{column}", options, "its metric, unit and decimals")
        declared(f"columns.{column}", options, Column)
    made = {column: Column(column, **options) for column, options in columns.items()}
    declared("", {key: value for key, value in written.items() if key != "columns"}, Table)
    return Table(name, **{**written, "columns": made})
