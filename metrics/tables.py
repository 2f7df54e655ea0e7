"""From saved files (scores.parquet, generations.jsonl) to what metrics read, and from a number of each question to their mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from utils.checks import choose
from utils.items.metric import Metric, checked_items, measured
from utils.items.saved import Row

DropEos = Literal["auto", "eos", "last", "never"]
Dropped = Literal["eos", "last", "never"]
WITHOUT: Mapping[Dropped, str] = {
    "eos": "a supervised EOS is left out",
    "last": "the last token is left out",
    "never": "the last token counts, EOS or not",
}


def answers_of(scores: pd.DataFrame, task: str) -> pd.DataFrame:
    """The true answers of a task, in order. Raises ValueError if there are none."""
    rows = scores[(scores["task"] == task) & (scores["role"] == "answer")]
    if rows.empty:
        raise ValueError(f"scores.parquet has no answers of task {task}: evaluate the model again")
    return rows.sort_values(["index", "number"], ignore_index=True)


def by_index(rows: Sequence[Row], task: str = "", needed: Iterable[int] = ()) -> dict[int, Row]:
    """Rows of generations.jsonl by the index of their question. Raises ValueError if one of the `needed` is not there."""
    found = {row["index"]: row for row in rows}
    lost = [index for index in needed if index not in found]
    if lost:
        raise ValueError(f"generations.jsonl has no answer to row {lost[0] + 1} of task {task}: evaluate the model again")
    return found


def set_columns(scores: object, wide: Sequence[str] = ()) -> None:
    """Makes the fields of a frozen object float64 arrays with a row for each item: (n,), and (n, J) for those that are `wide`.

    None stays. Raises ValueError naming the field if shapes disagree, there are no items, or a value is not finite.
    """
    arrays = {name: checked_items(values, name) for name, values in vars(scores).items() if values is not None}
    n = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        dimensions, wanted = (2, f"({n}, J)") if name in wide else (1, f"({n},)")
        if array.ndim != dimensions or len(array) != n:
            raise ValueError(f"{name}: its shape is {array.shape}, but {wanted} is needed, one row per item.")
        if not np.isfinite(array).all():
            item = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"{name}: item {item} is infinite; score this item again in float32.")
        object.__setattr__(scores, name, array)


def average_losses(scores: pd.DataFrame) -> pd.DataFrame:
    """scores with a column `loss`: minus the mean log-probability of each answer's tokens, in nats, float64."""
    means = [-np.mean(np.asarray(values, dtype=np.float64)) for values in scores["logp"]]
    return scores.assign(loss=means)


def per_question(values: Sequence[float] | np.ndarray, rows: pd.DataFrame) -> pd.Series:
    """The value of each question, by its index: the mean over its answers, if there are several in `rows`."""
    return pd.Series(values, index=rows["index"], dtype=float).groupby(level=0).mean()


def by_question(values: Iterable[float], rows: Sequence[Row]) -> pd.Series:
    """A value for each row of generations.jsonl, by the index of its question."""
    return pd.Series(list(values), index=[row["index"] for row in rows], dtype=float)


def mean_over(values: pd.Series, definition: str, resamples: int, group: str = "items", varies: str = "") -> Metric:
    """Mean of a number of each question, whose name in the index is what two runs pair it by (utils/items/metric.py).

    Raises ValueError for a name that comes twice.
    """
    items = {group: list(values.index)}
    return measured({group: values.to_numpy(np.float64)}, definition, items=items, varies=varies, resamples=resamples)


def check_drop_eos(measure: str, value: str) -> None:
    """Raises ValueError unless the value is one of DropEos."""
    choose(f"measure.{measure}.drop_eos", value, get_args(DropEos))


def dropped(drop_eos: DropEos, compat: str, released: Dropped = "last") -> Dropped:
    """What auto stands for: `released` with compat=open_unlearning, else eos."""
    if drop_eos != "auto":
        return drop_eos
    return released if compat == "open_unlearning" else "eos"


def kept_tokens(rows: pd.DataFrame, drop: Dropped) -> list[int]:
    """How many of the first tokens of each answer count."""
    return (rows["tokens"] - (rows["eos"].astype(int) if drop == "eos" else int(drop == "last"))).tolist()
