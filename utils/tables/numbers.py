"""Metrics as a table of the values behind them: what is kept of an evaluation on data that are not ours to hand on.

No question, answer or text of the model is in it. A number comes back with its value per item, as long as its statistic is a
function that can be found by name; others come back as the values that they were.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from utils.items.metric import Evidence, Metric

ROOMS = ("metrics.", "utils.")  # where statistics come from


def to_table(metrics: Mapping[str, Metric]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A row per metric, group and item; and beside it, per metric, which statistic it is and what else a row cannot say."""
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for name, metric in metrics.items():
        evidence = metric.evidence
        statistic = None if evidence is None else _name(evidence.statistic)
        if evidence is None or statistic is None:
            continue
        about[name] = {"statistic": statistic, "varies": evidence.varies, "named": sorted(evidence.items)}
        for group, values in evidence.samples.items():
            labels, subjects = evidence.labels(group), evidence.clusters.get(group)
            for place, value in enumerate(values):
                subject = None if subjects is None else subjects[place]
                item = json.dumps(labels[place], default=int)
                rows.append({"metric": name, "group": group, "item": item, "subject": subject, "values": np.atleast_1d(value)})
    columns = ["metric", "group", "item", "subject", "values"]
    return pd.DataFrame(rows, columns=columns), about


def from_table(table: pd.DataFrame, about: Mapping[str, Any], written: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """The metrics again, in the order of `written` (metrics.json). Numbers with values per item are computed from these.

    Raises ValueError for a statistic that is no function of this project any more.
    """
    by_metric = dict(list(table.groupby("metric", sort=False)))
    found = {}
    for name, entry in written.items():
        evidence = _evidence(by_metric[name], about[name]) if name in about else None
        value = float("nan") if entry["value"] is None else float(entry["value"])
        value = value if evidence is None else float(evidence.statistic(evidence.samples))
        low, high = entry["ci95"]
        found[name] = Metric(value, entry["n"], (low, high), entry["definition"], evidence)
    return found


def _evidence(rows: pd.DataFrame, about: Mapping[str, Any]) -> Evidence:
    samples, items, clusters = {}, {}, {}
    for group, of_group in rows.groupby("group", sort=False):
        values = np.stack([np.asarray(value, dtype=np.float64) for value in of_group["values"]])
        samples[str(group)] = values[:, 0] if values.shape[1] == 1 else values
        if group in about["named"]:
            items[str(group)] = [_hashable(json.loads(item)) for item in of_group["item"]]
        if of_group["subject"].notna().all():
            clusters[str(group)] = list(of_group["subject"])
    return Evidence(samples, _found(about["statistic"]), items, about["varies"], clusters)


def _hashable(label: Any) -> Any:
    return tuple(label) if isinstance(label, list) else label


def _name(statistic: Callable) -> str | None:
    """module:function; None for what is no function of a module."""
    module, function = getattr(statistic, "__module__", ""), getattr(statistic, "__qualname__", "")
    if not module.startswith(ROOMS) or "<" in function:
        return None
    return f"{module}:{function}" if getattr(importlib.import_module(module), function, None) is statistic else None


def _found(name: str) -> Callable:
    module, _, function = name.partition(":")
    if not module.startswith(ROOMS):
        raise ValueError(f"{name}: no statistic of this project; make the archive again")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}: is no statistic of this project any more; make the archive again") from error
