"""A reported number (`Metric`) and the percentile bootstrap that gives it an interval.

The items of an evaluation (questions, passages) are what is resampled, because they are the sample from the
population that a number speaks about. Seeds of training are a different source of spread, which no interval of this
file covers.

A metric is made by `measured` from one row of values per item and a statistic of them, the mean unless said otherwise:

    measured({"forget": values}, "mean of ...; PAPER", resamples=resamples)
    measured({"members": losses, "others": more}, "AUC of ...; PAPER", _auc, resamples=resamples)

It computes value, count and interval, and keeps what it was given (`Evidence`), so that utils/evaluation/paired.py can
compute the same number again on the same questions of two runs. What is slow (ROUGE, a judge) is done once per item, before.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

Interval = tuple[float, float]
Samples = Mapping[str, np.ndarray]
Statistic = Callable[[Samples], float]
Subject = Callable[[str, int], str | None]  # task and index of a question -> whom it is about; None: it stands alone

LEVEL = 0.95  # of every interval
_CHUNK = 2**22  # numbers drawn at once: bounds the memory of the vectorised mean at about 70 MB


def mean_of_items(samples: Samples) -> float:
    """Mean of the only group, (n,)."""
    (values,) = samples.values()
    return float(values.mean())


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a number was computed from: `statistic(samples)` is its value. Never written to a file.

    samples  group -> (n_group,) or (n_group, columns); groups are drawn independently, columns stay with their item
    items    group -> (n_group,) distinct names of its items, as the index of the question. A group that is not named holds
             an item for each question that was asked, in order; name the items wherever a run may leave some out
    varies   the words of the definition that change from run to run (how many were left out); all others must agree
             between two runs that are compared
    clusters group -> (n_group,) whom each item is about, where the benchmark knows (`Metric.clustered`): items of one subject are
             no independent draws, and groups that share a subject are drawn together. Intervals over questions pay no heed

    Raises ValueError for no items, for NaN, for names that are not distinct, and for names or clusters not as many as the items.
    """

    samples: Samples
    statistic: Statistic = mean_of_items
    items: Mapping[str, ArrayLike] = field(default_factory=dict)
    varies: str = ""
    clusters: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", {name: checked_items(values, name) for name, values in self.samples.items()})
        for name, labels in self.items.items():
            if name not in self.samples:
                raise ValueError(f"items: {name} is no group; groups are {', '.join(self.samples)}.")
            if len(set(labels)) != len(labels) or len(labels) != len(self.samples[name]):
                raise ValueError(f"items: {name} needs {len(self.samples[name])} distinct names, one per item.")
        for name, subjects in self.clusters.items():
            if len(subjects) != len(self.samples[name]):
                raise ValueError(f"clusters: {name} needs {len(self.samples[name])} subjects, one per item.")

    @property
    def n(self) -> int:
        """Items of all groups."""
        return sum(map(len, self.samples.values()))

    def labels(self, group: str) -> list:
        """Names of the items of a group: as given, else 0, 1, ..."""
        return list(self.items.get(group, range(len(self.samples[group]))))

    def interval(self, resamples: int, seed: int = 0) -> Interval:
        """95 % percentile interval of the statistic."""
        if self.statistic is mean_of_items:
            (values,) = self.samples.values()
            return bootstrap_ci(values, resamples=resamples, seed=seed)
        return bootstrap_joint(self.samples, self.statistic, resamples, seed)


@dataclass(frozen=True)
class Metric:
    """One number, the count of items behind it, its 95 % interval over items, and one sentence that says what it is.

    evidence: what it was computed from; None for a number that two runs cannot be compared by.
    """

    value: float
    n: int
    ci95: Interval
    definition: str
    evidence: Evidence | None = field(default=None, repr=False, compare=False)

    def clustered(self, subject: Subject) -> Metric:
        """The same number, its evidence knowing whom each item is about.

        An item is told to `subject` by task and index of its question: by its name, if that is such a pair, else by the name of
        its group and its own. What stands alone is a cluster of itself.
        """
        evidence = self.evidence
        if evidence is None:
            return self
        clusters = {group: [_cluster(subject, group, label) for label in evidence.labels(group)] for group in evidence.samples}
        return replace(self, evidence=replace(evidence, clusters=clusters))

    def to_json(self) -> dict[str, float | int | list[float] | str]:
        return {"value": self.value, "n": self.n, "ci95": list(self.ci95), "definition": self.definition}


def _cluster(subject: Subject, group: str, label: Hashable) -> str:
    task, index = label if isinstance(label, tuple) and len(label) == 2 else (group, label)
    found = subject(task, index) if isinstance(index, int | np.integer) else None
    return f"{task}, {index}" if found is None else found


def measured(
    samples: Samples,
    definition: str,
    statistic: Statistic = mean_of_items,
    *,
    n: int | None = None,
    items: Mapping[str, ArrayLike] | None = None,
    varies: str = "",
    resamples: int = 1000,
    seed: int = 0,
) -> Metric:
    """`statistic(samples)` as a Metric with its interval. n: the count to report, by default the items of all groups.

    `statistic` must take any resample of the rows, also of other length. `Evidence` explains samples, items and varies.
    Raises ValueError as `Evidence` and `bootstrap_joint`, and for words in `varies` that are not in the definition.
    """
    if varies not in definition:
        raise ValueError(f"varies: {varies!r} does not stand in the definition {definition!r}.")
    evidence = Evidence(samples, statistic, items or {}, varies)
    interval = evidence.interval(resamples, seed)
    return Metric(float(statistic(evidence.samples)), evidence.n if n is None else n, interval, definition, evidence)


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
    values: ArrayLike, statistic: Callable[[np.ndarray], float] = np.mean, resamples: int = 1000, seed: int = 0
) -> Interval:
    """95 % percentile interval of `statistic` over the items of `values`, (n,) or (n, k) -> (low, high).

    The same seed gives the same interval. Fewer than two items leave nothing to resample: the interval is (value,
    value). `statistic` takes an array of the shape of `values`; the mean of an (n,) array is computed for all
    resamples at once. Raises ValueError for no items, for NaN, and for a statistic that is NaN on a resample.
    """
    array = checked_items(values, "values")
    if statistic is not np.mean or array.ndim > 1 or len(array) < 2:
        return bootstrap_joint({"values": array}, lambda s: statistic(s["values"]), resamples, seed)
    check_resamples(resamples)
    n, rng = len(array), np.random.default_rng(seed)
    step = max(1, _CHUNK // n)
    counts = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = [array[rng.integers(n, size=(count, n))].mean(axis=1) for count in counts]
    return percentile_interval(np.concatenate(means))


def bootstrap_joint(samples: Samples, statistic: Statistic, resamples: int = 1000, seed: int = 0) -> Interval:
    """95 % percentile interval of a statistic of several independent groups of items -> (low, high).

    `samples` maps the name of a group to its array, (n_group,) or (n_group, columns). Each group is resampled on its
    own, with replacement, and whole rows are drawn: columns of one group keep belonging to the same item. `statistic`
    takes such a mapping. If any group has fewer than two items the interval is (value, value). Raises ValueError as
    `bootstrap_ci`.
    """
    check_resamples(resamples)
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
    return percentile_interval(results)


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
            if len(pair[0]) == len(pair[1]):
                # Of equal sizes SciPy gives up only on a p-value that rounding pushed above 1.
                return KS(ks_distance({"first": pair[0], "second": pair[1]}), 1.0)
            raise ValueError(f"{len(pair[0])} against {len(pair[1])} items: too many for an exact p-value.") from error
    return KS(float(result.statistic), float(result.pvalue))


def ks_intervals(first: ArrayLike, second: ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[Interval, Interval]:
    """95 % bootstrap intervals of the statistic and of the p-value of `ks_test`.

    Resampling makes ties, which push the distance up: both intervals may leave out the value itself, for instance 0
    and 1 for identical samples. Raises ValueError as `ks_test` and `bootstrap_joint`.
    """
    samples = {"first": np.asarray(first), "second": np.asarray(second)}
    distance = bootstrap_joint(samples, ks_distance, resamples, seed)
    return distance, bootstrap_joint(samples, ks_pvalue_statistic(), resamples, seed)


def ks_distance(samples: Samples) -> float:
    """Statistic of `ks_test` between the groups `first` and `second`."""
    first, second = np.sort(samples["first"]), np.sort(samples["second"])
    at = np.concatenate([first, second])
    shares = [np.searchsorted(sample, at, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_pvalue_statistic() -> Statistic:
    """A function that gives the p-value of `ks_test` between the groups `first` and `second`, fast on many resamples."""
    known: dict[tuple[int, int, int], float] = {}  # sizes and distance decide the p-value: each is looked up once

    def pvalue(samples: Samples) -> float:
        n, m = len(samples["first"]), len(samples["second"])
        key = n, m, round(ks_distance(samples) * n * m)
        if key not in known:
            known[key] = ks_test(samples["first"], samples["second"]).pvalue
        return known[key]

    return pvalue


def percentile_interval(results: np.ndarray) -> Interval:
    """The middle 95 % of resampled values, (resamples,). Raises ValueError for NaN."""
    if np.isnan(results).any():
        count = int(np.isnan(results).sum())
        raise ValueError(f"the statistic is NaN on {count} of {len(results)} resamples; it needs a value on each.")
    low, high = np.quantile(results, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def check_resamples(resamples: int) -> None:
    """Raises ValueError for less than one."""
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: the bootstrap needs at least 1 resample; 1000 is the usual number.")
