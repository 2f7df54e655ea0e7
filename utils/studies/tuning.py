"""Equal tuning: every method gets the same number of trials, and one rule, fixed in the study's file, chooses among them.

    tune:
      budget: 12                      trials of each row, the row's own (published) setting first
      space: {lr: [1e-5, 2e-5], ...}  values of settings of unlearn.py
      search: random                  grid: all of the space (its budget counts the row's own); random: drawn from it with `draw`
      draw: 0
      seeds: [1000]                   of the trials; none of the study's own
      rows: [npo, ...]                all rows that are trained, unless said
      evaluation: plain
      folds: 2                        parts of the subjects (authors): what is reported on a part was chosen on the others;
                                      1: choose and report on all
      near: [...]                     how near to the oracle: mean distance of these numbers (default: metrics/report/)
      kept: ...                       the number of which a share of the target's has to be kept (default: metrics/report/)
      share: 0.95
      equal: steps                    steps: the space may not change them; trials: only the number of trials is equal

The rule: of the trials that keep their `share` of the target's `kept`, the one nearest to the oracle in `near`. Among equals the
earlier one. Where none keeps it, the one that keeps most, and the list of trials says so. A trial that failed (a loss that is not
finite) has used up its place, and is not chosen; nor is one with a number that is undefined. The rule looks at the oracle, which
nobody has who unlearns in earnest: it asks what a method can do, not what its user would find.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from natsort import natsorted

from utils.checks import choose, declared, did_you_mean_or_all, require, share, whole
from utils.items.metric import Evidence, Metric, measured
from utils.report.columns import read_display
from utils.studies.cells import own_settings
from utils.studies.study import Entry, Study

FIXED_BY_EQUAL_STEPS = ("epochs", "steps", "batch_size")
EQUAL = 1e-9  # distances that differ by less are a tie
Metrics = Mapping[str, Metric]


@dataclass(frozen=True)
class Tune:
    """The `tune` of a study, see the head of this file. Raises ValueError for what does not fit."""

    budget: int
    space: Mapping[str, Sequence[Any]]
    search: str = "random"
    draw: int = 0
    seeds: Sequence[int] = (1000,)
    rows: Sequence[str] | None = None
    evaluation: str = "plain"
    folds: int = 2
    near: Sequence[str] = ()
    kept: str = ""
    share: float = 0.95
    equal: str = "steps"

    def __post_init__(self) -> None:
        whole("tune.budget", self.budget, 1)
        choose("tune.search", self.search, ("grid", "random"))
        choose("tune.equal", self.equal, ("steps", "trials"))
        whole("tune.folds", self.folds, 1)
        share("tune.share", self.share)
        require(bool(self.near), "tune.near", list(self.near), "metrics in which to be near to the oracle")
        require(bool(self.kept), "tune.kept", self.kept, "the metric of which a share has to be kept")
        for key, values in self.space.items():
            require(isinstance(values, list | tuple) and len(values) > 0, f"tune.space.{key}", values, "a list of values")
            if self.equal == "steps":
                require(key not in FIXED_BY_EQUAL_STEPS, "tune.space", key, "what leaves the steps equal, or tune.equal=trials")

    @classmethod
    def of(cls, study: Study) -> Tune | None:
        """Of a study that tunes. Raises ValueError, also for rows, an evaluation or seeds that do not go with the study."""
        if study.tune is None:
            return None
        known = [one.name for one in fields(cls)]
        for key in study.tune:
            require(key in known, f"tune.{key}", study.tune[key], f"one of its keys{did_you_mean_or_all(key, known)}")
        for key in ("budget", "space"):
            require(key in study.tune, f"tune.{key}", "", "what the head of utils/studies/tuning.py says")
        told = {**read_display(str(study.common.get("benchmark"))).tuning, **study.tune}
        declared("tune", told, cls)
        tune = cls(**told)
        choose("tune.evaluation", tune.evaluation, study.evaluations)
        reported = {seed for entry in study.of_kind("rows") if tune.tunes(entry) for seed in entry.seeds}
        shared = sorted({*tune.seeds} & reported)
        require(not shared, "tune.seeds", list(tune.seeds), "seeds that the study does not report")
        for row in tune.rows or ():
            choose("tune.rows", row, [entry.name for entry in study.of_kind("rows")])
        for role in ("target", "oracle"):
            require(
                any(entry.role == role for entry in study.of_kind("models")), "tune", "rule", f"a model with role {role} to go by"
            )
        return tune

    def tunes(self, entry: Entry) -> bool:
        """Whether a row is tuned."""
        return entry.kind == "rows" and entry.script is not None and (self.rows is None or entry.name in self.rows)

    def trials(self, entry: Entry) -> list[dict[str, Any]]:
        """Settings of each trial over the row's own, {} first. Raises ValueError if the space holds fewer than the budget."""
        points = [dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())]
        own = own_settings(entry, self.space)
        others = [point for point in points if point != own]
        if self.search == "random":
            random.Random(self.draw).shuffle(others)
        require(
            len(others) >= self.budget - 1,
            "tune.budget",
            self.budget,
            f"at most {len(others) + 1}, which are all that tune.space holds",
        )
        if self.search == "grid":
            whole_grid = f"{len(others) + 1} for the whole grid and {entry.name}'s own setting"
            require(len(others) + 1 == self.budget, "tune.budget", self.budget, whole_grid)
        return [{}, *others[: self.budget - 1]]


@dataclass(frozen=True)
class Judged:
    """A trial as the rule sees it on one part of the subjects. distance: from the oracle; kept: as a share of the target's."""

    trial: int
    distance: float
    kept: float
    admissible: bool


@dataclass(frozen=True)
class Choice:
    """What the rule chose on one part of the subjects, and all it had to choose from."""

    chosen: Judged
    judged: Sequence[Judged] = field(default_factory=tuple)


def choose_trial(tune: Tune, trials: Mapping[int, Sequence[Metrics]], oracle: Metrics, target: Metrics, part: Part) -> Choice:
    """The trial that the rule of the head takes. trials: number -> metrics under each tuning seed, whose mean counts.

    Raises ValueError for a metric that was not measured.
    """
    needed = _value(target, tune.kept, part)
    judged = []
    for number, runs in sorted(trials.items()):
        distance = float(np.mean([abs(_mean(runs, name, part) - _value(oracle, name, part)) for name in tune.near]))
        value = _mean(runs, tune.kept, part)
        enough = value >= tune.share * needed and np.isfinite(distance)
        judged.append(Judged(number, distance, value / needed if needed else float("nan"), bool(enough)))
    admissible = [one for one in judged if one.admissible]
    if admissible:
        nearest = min(one.distance for one in admissible)
        chosen = next(one for one in admissible if one.distance <= nearest + EQUAL)
    else:
        chosen = max(judged, key=lambda one: (one.kept if np.isfinite(one.kept) else -np.inf, -one.trial))
    return Choice(chosen, judged)


@dataclass(frozen=True)
class Part:
    """One part of the subjects, or with fold None all of them. folds: subject -> its part; others alone stand for themselves."""

    folds: Mapping[str, int]
    fold: int | None = None
    inside: bool = True

    def __contains__(self, subject: object) -> bool:
        if self.fold is None:
            return True
        return (self.folds.get(str(subject), 0) == self.fold) == self.inside


def folds_of(metrics: Metrics, count: int) -> dict[str, int]:
    """Subject -> part. Subjects of one kind are dealt out in their natural order, so that parts are as equal as can be."""
    kinds: dict[str, set[str]] = {}
    for subject in {subject for metric in metrics.values() for subject in _subjects(metric)}:
        kinds.setdefault(re.sub(r"\d+", "#", subject), set()).add(subject)
    return {subject: place % count for kind in kinds.values() for place, subject in enumerate(natsorted(kind))}


def restricted(metric: Metric, part: Part) -> Metric | None:
    """The number on a part of the subjects; None where the part holds none of a group's, or nothing is known per subject."""
    if part.fold is None:
        return metric
    evidence = metric.evidence
    if evidence is None or set(evidence.clusters) != set(evidence.samples):
        return None
    masks = {group: np.array([subject in part for subject in evidence.clusters[group]]) for group in evidence.samples}
    if not all(mask.any() for mask in masks.values()):
        return None
    return _again(metric, _masked(evidence, masks), resamples=1)  # whoever asks for a part reads its value alone


def joined(parts: Sequence[Metric]) -> Metric:
    """One number of disjoint parts of the subjects, which may come from different runs: its statistic over all of them."""
    first = parts[0].evidence
    assert first is not None
    known = [part.evidence for part in parts if part.evidence is not None]
    samples = {group: np.concatenate([one.samples[group] for one in known]) for group in first.samples}
    items = {group: [label for one in known for label in one.labels(group)] for group in first.samples}
    clusters = {group: [subject for one in known for subject in one.clusters[group]] for group in first.samples}
    return _again(parts[0], Evidence(samples, first.statistic, items, first.varies, clusters), resamples=100)


def crossfitted(runs: Mapping[int, Metrics], folds: Mapping[str, int]) -> dict[str, Metric]:
    """Metrics in which every part of the subjects is answered by the run that was chosen on the others. runs: part -> that run.

    A number that cannot be put together from subjects of several runs (of texts, say) is the mean of the runs' own.
    """
    names = [name for name in next(iter(runs.values())) if all(name in metrics for metrics in runs.values())]
    found = {}
    for name in names:
        own = [metrics[name] for metrics in runs.values()]
        pieces = [restricted(metric, Part(folds, fold)) for fold, metric in zip(runs, own, strict=True)]
        whole = [piece for piece in pieces if piece is not None]
        together = len(whole) == len(own) and all(_same_statistic(own[0], other) for other in own[1:])
        found[name] = joined(whole) if together else _averaged(own)
    return found


def _same_statistic(first: Metric, second: Metric) -> bool:
    """Whether both compute alike: one function, or two of the same code that hold nothing of their run."""
    if first.evidence is None or second.evidence is None:
        return False
    one, other = first.evidence.statistic, second.evidence.statistic
    code = getattr(one, "__code__", None)
    bare = code is not None and not one.__closure__ and not one.__defaults__ and not one.__kwdefaults__
    return one is other or one == other or (bare and code == getattr(other, "__code__", None))


def _averaged(runs: Sequence[Metric]) -> Metric:
    low, high = (float(np.mean([run.ci95[end] for run in runs])) for end in (0, 1))
    definition = f"mean over the runs of {len(runs)} parts of: {runs[0].definition}"
    return Metric(float(np.mean([run.value for run in runs])), runs[0].n, (low, high), definition)


def _again(metric: Metric, evidence: Evidence, resamples: int) -> Metric:
    samples, items, varies = evidence.samples, evidence.items, evidence.varies
    made = measured(samples, metric.definition, evidence.statistic, items=items, varies=varies, resamples=resamples)
    assert made.evidence is not None
    return replace(made, evidence=replace(made.evidence, clusters=evidence.clusters))


def _masked(evidence: Evidence, masks: Mapping[str, np.ndarray]) -> Evidence:
    def those(group: str, values: Sequence[Hashable]) -> list:
        return [value for value, kept in zip(values, masks[group], strict=True) if kept]

    return Evidence(
        {group: values[masks[group]] for group, values in evidence.samples.items()},
        evidence.statistic,
        {group: those(group, evidence.labels(group)) for group in evidence.samples},
        evidence.varies,
        {group: those(group, evidence.clusters[group]) for group in evidence.samples},
    )


def _subjects(metric: Metric) -> Iterator[str]:
    for subjects in metric.evidence.clusters.values() if metric.evidence is not None else ():
        yield from subjects


def _value(metrics: Metrics, name: str, part: Part) -> float:
    if name not in metrics:
        raise ValueError(f"tune: the rule needs {name}, which was not measured{did_you_mean_or_all(name, metrics)}")
    found = restricted(metrics[name], part)
    if found is None:
        raise ValueError(f"tune: {name} is not known per subject, so it cannot be taken on a part of them; say tune.folds=1")
    return found.value


def _mean(runs: Sequence[Metrics], name: str, part: Part) -> float:
    return float(np.mean([_value(metrics, name, part) for metrics in runs]))
