"""Spread over seeds, differences between methods, and what is left of them when several are looked at: pure functions.

Two sources of chance are kept apart. Seeds: the same method, trained again, gives another number; a difference is taken per seed
and tested against its spread (`paired_t`). Questions: other questions of the same kind would give another number; subjects, all
questions about one author, are drawn with replacement and every aggregate is computed anew (`clustered_difference`). Neither says
what the other says, so a table shows both.

Sources: Student's t, Holm (Scandinavian Journal of Statistics 6, 1979, pages 65 to 70); for the bootstrap see
utils/evaluation/resampling.py and paired.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import TypeVar

import numpy as np
from scipy import stats

from utils.evaluation.paired import comparable, finite_differences, two_sided_p
from utils.evaluation.resampling import resampled, strata
from utils.items.metric import LEVEL, Interval, Metric, percentile_interval

FEW = 5  # seeds: below, a spread and a test describe these runs and hardly more
ROUNDING = 1e-12  # of a difference: what varies less is the same number, computed twice
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Spread:
    """mean, standard deviation (n - 1 in the denominator; NaN for a single value) and number of values."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class SeedDifference:
    """Mean difference over n shared seeds, its 95 % interval, and p of a two-sided t test; None where n or spread allow none."""

    mean: float
    n: int
    ci95: Interval | None
    p: float | None


@dataclass(frozen=True)
class ClusteredDifference:
    """Difference of the means over seeds, 95 % interval and two-sided p over subjects. units: subjects that were drawn."""

    value: float
    ci95: Interval
    p: float
    units: int


def spread(values: Sequence[float]) -> Spread:
    """Of one number per seed. Raises ValueError for none."""
    if not len(values):
        raise ValueError("there are no values to take a mean of")
    array = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # of infinite values
        return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else nan, len(array))


def paired_t(first: Mapping[K, float], second: Mapping[K, float]) -> SeedDifference:
    """`second` minus `first` over the seeds that both have, seed -> number.

    t = mean / (sd / sqrt(n)) with n - 1 degrees of freedom. With one seed, or differences that are all the same, there is no
    spread to measure a difference by: interval and p are None, p is 1 where all of several are 0. Raises ValueError if no seed is
    shared.
    """
    shared = [seed for seed in first if seed in second]
    if not shared:
        raise ValueError("the two have no seed in common")
    found = spread([second[seed] - first[seed] for seed in shared])
    if found.n < 2 or not found.sd > ROUNDING * abs(found.mean):
        return SeedDifference(found.mean, found.n, None, 1.0 if found.n > 1 and found.mean == 0 else None)
    error = found.sd / found.n**0.5
    half = float(stats.t.ppf((1 + LEVEL) / 2, found.n - 1)) * error
    p = 2 * float(stats.t.sf(abs(found.mean) / error, found.n - 1))
    return SeedDifference(found.mean, found.n, (found.mean - half, found.mean + half), p)


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """p-values of one family, adjusted: that any true hypothesis is rejected at level a has probability a at most.

    Sorted, p_(k) of m becomes max over j <= k of (m - j + 1) p_(j), at most 1. Raises ValueError for a p that is none.
    """
    for name, p in p_values.items():
        if isnan(p) or not 0 <= p <= 1:
            raise ValueError(f"p={p} of {name} is no p-value")
    adjusted: dict[K, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda entry: entry[1])):
        least = max(least, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def clustered_difference(
    first: Sequence[Metric], second: Sequence[Metric], resamples: int = 1000, seed: int = 0
) -> ClusteredDifference:
    """Mean of `second` minus mean of `first`, a metric of each seed; subjects are drawn, the same ones for all runs.

    In every resample each run's number is computed anew, then averaged over its seeds. Without clusters (`Metric.clustered`) a
    subject is a question. Raises ValueError for metrics that keep no values per question, differ in definition or groups, have a
    single subject, or have no finite difference.
    """
    runs = [comparable(first[0], metric)[1] for metric in (*first, *second)]
    units = sum(stratum.units for stratum in strata(runs, by_cluster=True))
    values = resampled(runs, resamples, seed, by_cluster=True)
    means = values[:, : len(first)].mean(axis=1), values[:, len(first) :].mean(axis=1)
    differences = finite_differences(*means)
    value = spread([metric.value for metric in second]).mean - spread([metric.value for metric in first]).mean
    return ClusteredDifference(value, percentile_interval(differences), two_sided_p(differences), units)
