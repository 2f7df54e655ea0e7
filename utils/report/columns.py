"""What a report shows of a benchmark: metrics/report/<benchmark>.yaml, beside the code of its metrics.

    columns   in order, each with name, metric (as in metrics.json), meaning, better (high | low | zero | oracle: near to the
              retain oracle's value | neither) and scale (share: 0 to 1, percent, p: a p-value, log: above 0 over powers of ten,
              free: anything). A p-value has no mean over seeds: `statistic` is the metric of the test's statistic, which has
              one, and `placement` the metric that places it among oracles of other seeds
    map       names of two columns, x and y, for one picture of all runs; `words` say how to read it
    answers   task -> title: whose answers are shown side by side
    tuning    `near` and `kept`: what the rule of a study's tuning looks at (utils/studies/tuning.py)
    oracle    beginnings of splits; a run finetuned on such splits alone never saw what is forgotten
    told      dotted name of a function that says in sentences what an unlearned model's metrics mean; it loads no torch

All of it may be left out, and the file too: then the first metrics are shown as they come. Names of columns are no settings of an
evaluation, so they are not in config/benchmark/: another one must not make a finished run count as another. They are data and not
code, so that a report imports no benchmark and neither torch nor what else metrics are computed with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from hydra.utils import get_method
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from utils import ROOT
from utils.checks import choose, did_you_mean_or_all, require

FOLDER = ROOT / "metrics" / "report"
UNDECLARED = 8  # metrics that are shown of a benchmark without such a file
SIGNIFICANCE = 0.05  # from this p-value on a test tells no difference
SMALLEST = 1e-300  # a p-value of 0 has no logarithm

Better = Literal["high", "low", "zero", "oracle", "neither"]
ARROWS: dict[str, str] = {"high": " ↑", "low": " ↓", "zero": " → 0", "oracle": " → oracle", "neither": ""}
READINGS: dict[str, str] = {
    "high": "↑ more is better",
    "zero": "→ 0 the nearer to 0 the better",
    "oracle": "→ oracle the nearer to the retain oracle the better",
    "low": "↓ less is better",
}
K = TypeVar("K", bound=Hashable)


def _p_value(value: float) -> str:
    return f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3f}"


def _log10(value: float) -> float:
    return value if math.isnan(value) else math.log10(max(value, SMALLEST))


@dataclass(frozen=True)
class Scale:
    """How numbers are printed and where they lie on an axis, also in words. limits: of the numbers; None: they may be any."""

    show: Callable[[float], str]
    words: str
    place: Callable[[float], float] = float
    limits: tuple[float, float] | None = None
    powers: bool = False


SCALES: dict[str, Scale] = {
    "share": Scale("{:.3f}".format, "from 0 to 1", limits=(0.0, 1.0)),
    "percent": Scale("{:.2f}".format, "from 0 to 100 for percentages", limits=(0.0, 100.0)),
    "p": Scale(_p_value, "over powers of ten for p-values", _log10, powers=True),
    "log": Scale("{:.4g}".format, "over powers of ten for perplexities", _log10, powers=True),
    "free": Scale("{:.4g}".format, "over the values of these runs for other numbers"),
}


@dataclass(frozen=True)
class Column:
    """One metric of metrics.json as a column, see the head of this file. Raises ValueError for an entry that does not fit."""

    name: str
    metric: str
    meaning: str = ""
    better: Better = "neither"
    scale: str = "share"
    statistic: str | None = None
    placement: str | None = None

    def __post_init__(self) -> None:
        choose("better", self.better, ARROWS)
        choose("scale", self.scale, SCALES)
        for key in ("statistic", "placement"):
            require(self.is_p_value or getattr(self, key) is None, key, getattr(self, key), "nothing: the column is no p-value")

    @property
    def header(self) -> str:
        return f"{self.name}{ARROWS[self.better]}"

    @property
    def words(self) -> str:
        return self.meaning or self.name

    @property
    def is_p_value(self) -> bool:
        return self.scale == "p"

    def show(self, value: float) -> str:
        """A number as text: p-values below 0.001 as 1.2e-05, shares with three decimals, percentages with two."""
        return SCALES[self.scale].show(value)

    def place(self, value: float) -> float:
        """Where a number lies on the column's scale: itself, or its logarithm."""
        return SCALES[self.scale].place(value)

    def show_interval(self, interval: tuple[float, float] | None) -> str:
        """`[low, high]`, or nothing where there is no interval."""
        return "" if interval is None else f"[{self.show(interval[0])}, {self.show(interval[1])}]"

    def goodness(self, value: float, aim: float | None = None) -> float | None:
        """How good a value is, the larger the better; None where nobody says. aim: the oracle's, if it is known."""
        if self.better == "oracle":
            return None if aim is None else -abs(self.place(value) - self.place(aim))
        return {"high": value, "low": -value, "zero": -abs(value)}.get(self.better)

    def best(self, values: Mapping[K, float], aim: float | None = None) -> set[K]:
        """Who has the best value, none of them NaN: as far as printed digits tell, so that equal prints share the place."""
        printed = None if aim is None else float(self.show(aim))
        good = {who: self.goodness(float(self.show(value)), printed) for who, value in values.items()}
        known = {who: value for who, value in good.items() if value is not None}
        return {who for who, value in known.items() if math.isclose(value, max(known.values()), rel_tol=1e-9)}


@dataclass(frozen=True)
class Map:
    """The columns that span the picture of all runs, and how to read it."""

    x: Column
    y: Column
    words: str = ""


@dataclass(frozen=True)
class Display:
    """What a report shows of one benchmark."""

    columns: tuple[Column, ...] = ()
    map: Map | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    oracle: tuple[str, ...] = ("retain",)
    tuning: Mapping[str, Any] = field(default_factory=dict)
    told: Callable[[Mapping[str, Any]], list[str]] | None = None


@cache
def read_display(benchmark: str, folder: Path = FOLDER) -> Display:
    """The file of a benchmark; an empty one if it has none. Raises ValueError naming file and entry if it is wrong."""
    if benchmark not in {path.stem for path in folder.glob("*.yaml")}:
        return Display()
    path = folder / f"{benchmark}.yaml"
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        return _display(content)
    except (ValueError, TypeError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def columns_of(benchmark: str, measured: Sequence[str]) -> list[Column]:
    """The declared columns whose metric was measured; without any, one for each of the first metrics."""
    declared = [column for column in read_display(benchmark).columns if column.metric in measured]
    return declared or [Column(name, name, scale="free") for name in measured[:UNDECLARED]]


def _display(content: Any) -> Display:
    if not isinstance(content, dict):
        raise ValueError("write keys with values")
    _check_keys(content, ("columns", "map", "answers", "oracle", "tuning", "told"))
    columns = tuple(_column(entry, place) for place, entry in enumerate(content.get("columns") or (), start=1))
    for key in ("name", "metric"):
        values = [vars(column)[key] for column in columns]
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"columns: two have the {key} {twice[0]}")
    return Display(
        columns,
        _map(content["map"], {column.name: column for column in columns}) if content.get("map") else None,
        {str(task): str(title) for task, title in (content.get("answers") or {}).items()},
        tuple(map(str, content.get("oracle", Display.oracle))),
        content.get("tuning") or {},
        get_method(content["told"]) if content.get("told") else None,
    )


def _check_keys(entry: Mapping[str, Any], valid: Sequence[str]) -> None:
    for key in entry:
        if key not in valid:
            raise ValueError(f"there is no key {key}{did_you_mean_or_all(key, valid)}")


def _column(entry: Any, place: int) -> Column:
    try:
        return Column(**entry)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {place}: {str(error).removeprefix('Column.__init__() ')}") from error


def _map(entry: Mapping[str, str], columns: Mapping[str, Column]) -> Map:
    _check_keys(entry, ("x", "y", "words"))
    for axis in ("x", "y"):
        choose(f"map.{axis}", entry.get(axis), columns)
    return Map(columns[entry["x"]], columns[entry["y"]], entry.get("words", ""))
