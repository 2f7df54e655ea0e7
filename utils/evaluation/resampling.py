"""What every bootstrap over several runs has in common: the same questions, or the same subjects, drawn for all of them.

A unit is what is drawn as a whole: a question, or with `by_cluster` all questions about one subject (`Evidence.clusters`), since
answers about one author are right or wrong together and are no independent draws. Every resample draws as many units as there
are, with replacement, and computes each run's number anew on its items of these units: an aggregate is that of the resample,
never a resample of aggregates. Groups that share a unit are drawn together, all others independently.

Source: Davison and Hinkley, Bootstrap Methods and their Application, sections 2.4 and 3.8 (resampling of clusters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.items.metric import Evidence, check_resamples


class Places(NamedTuple):
    """The rows of one group of one run, sorted by unit: those of unit u are order[start[u] : start[u] + count[u]]."""

    order: np.ndarray
    start: np.ndarray
    count: np.ndarray

    def drawn(self, units: np.ndarray) -> np.ndarray:
        """Rows of the drawn units, (k,) -> (rows,), in the order of the draw."""
        counts = self.count[units]
        ends = np.cumsum(counts)
        within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        return self.order[np.repeat(self.start[units], counts) + within]


@dataclass(frozen=True)
class Stratum:
    """Groups that are drawn together. units: how many; places: group -> its rows in each run, one object where runs agree."""

    units: int
    places: dict[str, list[Places]]

    def draw(self, rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
        """Group -> the drawn rows of each run, at least one each: a draw that leaves a run without items is made again."""
        while True:
            units = rng.integers(self.units, size=self.units)
            rows = {group: _once(of_runs, units) for group, of_runs in self.places.items()}
            if all(len(found) for of_runs in rows.values() for found in of_runs):
                return rows


def strata(runs: Sequence[Evidence], by_cluster: bool = False) -> list[Stratum]:
    """What is drawn for runs with the same groups. Raises ValueError for a stratum with fewer than two units."""
    found = []
    for groups in _together(runs[0], by_cluster):
        labels = {group: [pd.Index(_units(run, group, by_cluster)) for run in runs] for group in groups}
        units = reduce(pd.Index.union, (index for of_runs in labels.values() for index in of_runs)).unique()
        if len(units) < 2:
            unit = "subject" if by_cluster else "question"
            raise ValueError(f"the group {groups[0]} has one {unit}, which leaves nothing to resample")
        places = {group: _shared_places(labels[group], units) for group in groups}
        found.append(Stratum(len(units), places))
    return found


def resampled(runs: Sequence[Evidence], resamples: int = 1000, seed: int = 0, by_cluster: bool = False) -> np.ndarray:
    """The number of every run on every resample, (resamples, runs). The same seed gives the same numbers.

    Raises ValueError as `strata`, and for fewer than one resample.
    """
    check_resamples(resamples)
    drawn_from = strata(runs, by_cluster)
    rng = np.random.default_rng(seed)
    values = np.empty((resamples, len(runs)))
    for index in range(resamples):
        rows = {group: found for stratum in drawn_from for group, found in stratum.draw(rng).items()}
        for place, run in enumerate(runs):
            values[index, place] = run.statistic({group: run.samples[group][rows[group][place]] for group in run.samples})
    return values


def _units(run: Evidence, group: str, by_cluster: bool) -> list:
    return list(run.clusters[group]) if by_cluster and group in run.clusters else run.labels(group)


def _together(run: Evidence, by_cluster: bool) -> list[list[str]]:
    """The groups in sets that share no cluster, in order; without clusters each group by itself."""
    found: list[tuple[list[str], set]] = []
    for group in run.samples:
        subjects = set(run.clusters.get(group, ())) if by_cluster else set()
        sharing = [entry for entry in found if entry[1] & subjects]
        found = [entry for entry in found if entry not in sharing]
        names = [name for entry in sharing for name in entry[0]]
        found.append(([*names, group], subjects.union(*(entry[1] for entry in sharing))))
    return [groups for groups, _ in found]


def _shared_places(labels: Sequence[pd.Index], units: pd.Index) -> list[Places]:
    """The rows of each run; runs with the same items in the same order, as most are, share theirs."""
    found: list[Places] = []
    for run, index in enumerate(labels):
        same = next((place for place in range(run) if labels[place].equals(index)), None)
        found.append(_places(units.get_indexer(index), len(units)) if same is None else found[same])
    return found


def _places(codes: np.ndarray, units: int) -> Places:
    count = np.bincount(codes, minlength=units)
    return Places(np.argsort(codes, kind="stable"), np.cumsum(count) - count, count)


def _once(of_runs: Sequence[Places], units: np.ndarray) -> list[np.ndarray]:
    """The drawn rows of each run, looked up once for those that share their places."""
    drawn = {id(places): places.drawn(units) for places in {id(places): places for places in of_runs}.values()}
    return [drawn[id(places)] for places in of_runs]
