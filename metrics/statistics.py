"""A reported number (`Metric`) and the percentile bootstrap that gives it an interval.

The items of an evaluation (questions, passages) are what is resampled, because they are the sample from the
population that a number speaks about. Seeds of training are a different source of spread, which no interval of this
file covers.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

Interval = tuple[float, float]
Samples = Mapping[str, np.ndarray]

_CHUNK = 2**22  # numbers drawn at once: bounds the memory of the vectorised mean at about 70 MB


@dataclass(frozen=True)
class Metric:
    """One number, the count of items behind it, its 95 % interval over items, and one sentence that says what it is."""

    value: float
    n: int
    ci95: Interval
    definition: str

    def to_json(self) -> dict[str, float | int | list[float] | str]:
        return {"value": self.value, "n": self.n, "ci95": list(self.ci95), "definition": self.definition}


class KS(NamedTuple):
    """Largest distance between two empirical distribution functions, and its exact two-sided p-value."""

    statistic: float
    pvalue: float


def checked_items(values: ArrayLike, name: str) -> np.ndarray:
    """`values` as float64, items along the first axis. Raises ValueError for no items or a NaN; infinity passes."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        raise ValueError(f"{name}: a single number was given; pass a list or an array with one value per item.")
    if array.size == 0:
        raise ValueError(f"{name}: there are no items; check the scores it was read from.")
    if np.isnan(array).any():
        item = int(np.argwhere(np.isnan(array))[0][0])
        raise ValueError(f"{name}: item {item} is NaN; score this item again or find out why its value is undefined.")
    return array


def bootstrap_ci(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of `statistic` over the items of `values`, (n,) or (n, k) -> (low, high).

    The same seed gives the same interval. Fewer than two items leave nothing to resample: the interval is (value,
    value). `statistic` takes an array of the shape of `values`; the mean of an (n,) array is computed for all
    resamples at once. Raises ValueError for no items, for NaN, and for a statistic that is NaN on a resample.
    """
    array = checked_items(values, "values")
    if statistic is not np.mean or array.ndim > 1 or len(array) < 2:
        return bootstrap_joint({"values": array}, lambda s: statistic(s["values"]), resamples, seed, level)
    _check_settings(resamples, level)
    n, rng = len(array), np.random.default_rng(seed)
    step = max(1, _CHUNK // n)
    counts = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = [array[rng.integers(n, size=(count, n))].mean(axis=1) for count in counts]
    return _interval(np.concatenate(means), level)


def bootstrap_joint(
    samples: Samples,
    statistic: Callable[[Samples], float],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of several independent groups of items -> (low, high).

    `samples` maps the name of a group to its array, (n_group,) or (n_group, columns). Each group is resampled on its
    own, with replacement, and whole rows are drawn: columns of one group keep belonging to the same item. `statistic`
    takes such a mapping. If any group has fewer than two items the interval is (value, value). Raises ValueError as
    `bootstrap_ci`.
    """
    _check_settings(resamples, level)
    if not samples:
        raise ValueError("samples: no group was given; pass at least one array of items.")
    groups = {name: checked_items(values, name) for name, values in samples.items()}
    if min(len(values) for values in groups.values()) < 2:
        value = float(statistic(groups))
        return value, value
    rng = np.random.default_rng(seed)
    results = np.empty(resamples)
    for index in range(resamples):
        results[index] = statistic({name: v[rng.integers(len(v), size=len(v))] for name, v in groups.items()})
    return _interval(results, level)


def ks_test(first: ArrayLike, second: ArrayLike) -> KS:
    """Exact two-sided two-sample Kolmogorov-Smirnov test, (n,), (m,) -> KS.

    Never the asymptotic p-value, which can be off by a factor of two in the far tail. Infinite values are ranked as
    usual. Raises ValueError for an empty sample, for NaN, and for samples so large that only the asymptotic value
    could be computed.
    """
    pair = checked_items(first, "the first sample"), checked_items(second, "the second sample")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # SciPy warns where it would fall back to the asymptotic value
        try:
            result = ks_2samp(*pair, alternative="two-sided", method="exact")
        except RuntimeWarning as error:
            raise ValueError(f"{len(pair[0])} against {len(pair[1])} items: too many for an exact p-value.") from error
    return KS(float(result.statistic), float(result.pvalue))


def ks_intervals(
    first: ArrayLike, second: ArrayLike, resamples: int = 1000, seed: int = 0
) -> tuple[Interval, Interval]:
    """95 % bootstrap intervals of the statistic and of the p-value of `ks_test`.

    Resampling makes ties, which push the distance up: both intervals may leave out the value itself, for instance 0
    and 1 for identical samples. Raises ValueError as `ks_test` and `bootstrap_joint`.
    """
    known: dict[int, float] = {}  # sizes and distance decide the p-value, so each distance is looked up once

    def pvalue(samples: Samples) -> float:
        steps = round(_ks_distance(samples) * len(samples["first"]) * len(samples["second"]))
        if steps not in known:
            known[steps] = ks_test(samples["first"], samples["second"]).pvalue
        return known[steps]

    samples = {"first": np.asarray(first), "second": np.asarray(second)}
    return bootstrap_joint(samples, _ks_distance, resamples, seed), bootstrap_joint(samples, pvalue, resamples, seed)


def _ks_distance(samples: Samples) -> float:
    first, second = np.sort(samples["first"]), np.sort(samples["second"])
    at = np.concatenate([first, second])
    shares = [np.searchsorted(sample, at, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def _interval(results: np.ndarray, level: float) -> Interval:
    if np.isnan(results).any():
        count = int(np.isnan(results).sum())
        raise ValueError(f"the statistic is NaN on {count} of {len(results)} resamples; it needs a value on each.")
    low, high = np.quantile(results, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_settings(resamples: int, level: float) -> None:
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: the bootstrap needs at least 1 resample; 1000 is the usual number.")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: the level of an interval lies between 0 and 1, for instance 0.95.")
