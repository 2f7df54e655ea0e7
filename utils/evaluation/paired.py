"""The difference of one metric between two runs that were asked the same questions: paired bootstrap.

Each resample draws questions with replacement, the same ones for both runs, and computes the metric of either on its items of
these questions (utils/evaluation/resampling.py). How hard a question is affects both runs alike and cancels out, which two
separate intervals do not show. Groups of items are drawn independently of each other, as for the interval of a single metric
(utils/items/metric.py).

    interval  percentiles 2.5 and 97.5 of the resampled differences B - A
    p         2 (1 + min(#{B - A <= 0}, #{B - A >= 0})) / (1 + resamples), at most 1: two-sided, never 0

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentiles); Davison and Hinkley, Bootstrap Methods
and their Application, chapter 4 (one is added to both counts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.evaluation.resampling import resampled
from utils.items.metric import Evidence, Interval, Metric, percentile_interval


@dataclass(frozen=True)
class Difference:
    """A metric of two runs: its value B minus its value A, with 95 % interval and two-sided p-value over questions."""

    first: Metric
    second: Metric
    value: float
    ci95: Interval
    p: float


def paired_difference(first: Metric, second: Metric, resamples: int = 1000, seed: int = 0) -> Difference:
    """`second` minus `first`. The same seed gives the same numbers.

    A question that only one run has an item for (an empty output has no perplexity) counts where it has one, so that the
    difference is that of the two reported values; a resample without any item of a run is drawn again.

    Raises ValueError if the two cannot be paired: evidence is missing, definitions or groups differ, items without names are
    not as many, a group has fewer than two questions, or the difference is not finite.
    """
    values = resampled(comparable(first, second), resamples, seed)
    differences = finite_differences(values[:, 0], values[:, 1])
    interval = percentile_interval(differences)
    return Difference(first, second, second.value - first.value, interval, two_sided_p(differences))


def finite_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`second` minus `first`, (resamples,) each. Raises ValueError if one is not finite."""
    with np.errstate(invalid="ignore"):
        differences = second - first
    if not np.isfinite(differences).all():
        count = int((~np.isfinite(differences)).sum())
        raise ValueError(f"the difference is no finite number on {count} of {len(differences)} resamples")
    return differences


def two_sided_p(differences: np.ndarray) -> float:
    """p-value of resampled differences, (resamples,) -> (0, 1], as the head of this file writes it."""
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(differences)))


def comparable(first: Metric, second: Metric) -> tuple[Evidence, Evidence]:
    """What the two were computed from. Raises ValueError unless it is the same kind of number."""
    one, other = first.evidence, second.evidence
    if one is None or other is None:
        raise ValueError("the metric keeps no values per question")
    if first.definition.replace(one.varies, "") != second.definition.replace(other.varies, ""):
        raise ValueError(f"it is defined differently: {first.definition!r} and {second.definition!r}")
    if one.samples.keys() != other.samples.keys():
        only = sorted(one.samples.keys() ^ other.samples.keys())[0]
        raise ValueError(f"only one of the runs has items of the group {only}")
    for group in one.samples:
        counts = len(one.samples[group]), len(other.samples[group])
        named = group in one.items and group in other.items
        if not named and counts[0] != counts[1]:
            raise ValueError(f"the runs have {counts[0]} and {counts[1]} items of the group {group} and no names to pair them by")
    return one, other
