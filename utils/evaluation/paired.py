"""The difference of one metric between two runs that were asked the same questions: paired bootstrap.

Each resample draws questions with replacement, the same ones for both runs, and computes the metric of either on its items of
these questions. How hard a question is affects both runs alike and cancels out, which two separate intervals do not show.
Groups of items are drawn independently of each other, as for the interval of a single metric (utils/items/metric.py).

    interval  percentiles 2.5 and 97.5 of the resampled differences B - A
    p         2 (1 + min(#{B - A <= 0}, #{B - A >= 0})) / (1 + resamples), at most 1: two-sided, never 0

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentiles); Davison and Hinkley, Bootstrap Methods
and their Application, chapter 4 (one is added to both counts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.items.metric import Evidence, Interval, Metric, check_resamples, percentile_interval


@dataclass(frozen=True)
class Difference:
    """A metric of two runs: its value B minus its value A, with 95 % interval and two-sided p-value over questions."""

    first: Metric
    second: Metric
    value: float
    ci95: Interval
    p: float


class Rows(NamedTuple):
    """Every question of a group that at least one run has: its row in the first run and in the second, -1 where it has none."""

    first: np.ndarray
    second: np.ndarray


def paired_difference(first: Metric, second: Metric, resamples: int = 1000, seed: int = 0) -> Difference:
    """`second` minus `first`. The same seed gives the same numbers.

    A question that only one run has an item for (an empty output has no perplexity) counts where it has one, so that the
    difference is that of the two reported values; a resample without any item of a run is drawn again.

    Raises ValueError if the two cannot be paired: evidence is missing, definitions or groups differ, items without names are
    not as many, a group has fewer than two questions, or the difference is not finite.
    """
    check_resamples(resamples)
    known = _comparable(first, second)
    groups = {name: _rows(name, *known) for name in known[0].samples}
    rng = np.random.default_rng(seed)
    differences = np.empty(resamples)
    for index in range(resamples):
        drawn = {name: _draw(rng, rows) for name, rows in groups.items()}
        values = [
            evidence.statistic({name: evidence.samples[name][rows[run]] for name, rows in drawn.items()})
            for run, evidence in enumerate(known)
        ]
        differences[index] = values[1] - values[0]
    if not np.isfinite(differences).all():
        count = int((~np.isfinite(differences)).sum())
        raise ValueError(f"the difference is no finite number on {count} of {resamples} resamples")
    interval = percentile_interval(differences)
    return Difference(first, second, second.value - first.value, interval, two_sided_p(differences))


def two_sided_p(differences: np.ndarray) -> float:
    """p-value of resampled differences, (resamples,) -> (0, 1], as the head of this file writes it."""
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(differences)))


def _comparable(first: Metric, second: Metric) -> tuple[Evidence, Evidence]:
    """What the two were computed from. Raises ValueError unless it is the same kind of number."""
    one, other = first.evidence, second.evidence
    if one is None or other is None:
        raise ValueError("the metric keeps no values per question")
    if first.definition.replace(one.varies, "") != second.definition.replace(other.varies, ""):
        raise ValueError(f"it is defined differently: {first.definition!r} and {second.definition!r}")
    if one.samples.keys() != other.samples.keys():
        only = sorted(one.samples.keys() ^ other.samples.keys())[0]
        raise ValueError(f"only one of the runs has items of the group {only}")
    return one, other


def _rows(group: str, first: Evidence, second: Evidence) -> Rows:
    counts = len(first.samples[group]), len(second.samples[group])
    named = group in first.items and group in second.items
    if not named and counts[0] != counts[1]:
        raise ValueError(f"the runs have {counts[0]} and {counts[1]} items of the group {group}, and no names to pair them by")
    labels = [pd.Index(evidence.labels(group)) for evidence in (first, second)]
    questions = labels[0].union(labels[1])  # sorted: the order of the rows changes nothing
    if len(questions) < 2:
        raise ValueError(f"the group {group} has one question, which leaves nothing to resample")
    return Rows(*(found.get_indexer(questions) for found in labels))


def _draw(rng: np.random.Generator, rows: Rows) -> Rows:
    """Rows of drawn questions, at least one for each run."""
    while True:
        drawn = rng.integers(len(rows.first), size=len(rows.first))
        found = Rows(*(of_run[drawn][of_run[drawn] >= 0] for of_run in rows))
        if len(found.first) and len(found.second):
            return found
