"""The whole graph of a study, trials of tuning and the rows chosen among them included, and the numbers of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from utils.items.metric import Metric
from utils.studies.archive import FOLDER, Archive
from utils.studies.cells import POOL, Cell, Graph, composed_settings
from utils.studies.states import State, state_of, states
from utils.studies.study import Entry, Study
from utils.studies.tuning import Choice, Part, Tune, choose_trial, crossfitted, folds_of
from utils.tables.measured import MeasuredCell

Metrics = Mapping[str, Metric]


@dataclass
class Plan:
    """A study as far as it is known now.

    choices: row -> part of the subjects -> what was chosen for it, for rows whose trials are done; waiting: rows whose trials are
    not. folds: subject -> part.
    """

    study: Study
    graph: Graph
    archive: Archive
    tune: Tune | None = None
    choices: dict[str, dict[int, Choice]] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    folds: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study, pool: Path = POOL, results: Path = FOLDER) -> Plan:
        """Raises ValueError for settings that a script would refuse, and for a tuning that does not fit the study."""
        tune = Tune.of(study)
        plan = cls(study, Graph(study, pool), Archive.of(study.name, results), tune)
        for entry in study.entries.values():
            if tune is not None and tune.tunes(entry):
                plan._add_trials(entry, tune)
            else:
                for seed in entry.seeds if entry.script else (None,):
                    plan.graph.add_with_evaluations(entry, seed)
        for entry in study.entries.values():
            if tune is not None and tune.tunes(entry):
                plan._add_chosen(entry, tune)
        return plan

    @property
    def states(self) -> dict[str, State]:
        return states(self.graph, self.archive)

    def _add_trials(self, entry: Entry, tune: Tune) -> None:
        for number, settings in enumerate(tune.trials(entry)):
            for seed in tune.seeds:
                self.graph.add_with_evaluations(entry, seed, settings, number, [tune.evaluation])

    def _add_chosen(self, entry: Entry, tune: Tune) -> None:
        trials = self._trials(entry, tune)
        beside = {role: self._of_role(role, tune) for role in ("oracle", "target")}
        if trials is None or None in beside.values():
            self.waiting.append(entry.name)
            return
        oracle, target = beside["oracle"], beside["target"]
        assert oracle is not None and target is not None
        self.folds = self.folds or folds_of(oracle, tune.folds)
        settings = tune.trials(entry)
        self.choices[entry.name] = {
            fold: choose_trial(tune, trials, oracle, target, self.part(fold, inside=False)) for fold in range(tune.folds)
        }
        for number in sorted({choice.chosen.trial for choice in self.choices[entry.name].values()}):
            for seed in entry.seeds:
                self.graph.add_with_evaluations(entry, seed, settings[number], number)

    def part(self, fold: int, inside: bool = True) -> Part:
        """A part of the subjects, or all others; all where there is one part."""
        return Part(self.folds, None if self.tune is None or self.tune.folds == 1 else fold, inside)

    def _trials(self, entry: Entry, tune: Tune) -> dict[int, list[Metrics]] | None:
        """Number -> metrics under each tuning seed, but of trials that failed; None while one is missing, or if all failed."""
        found: dict[int, list[Metrics]] = {}
        failed: set[int] = set()
        for cell in self.graph.cells.values():
            if cell.entry.name == entry.name and cell.evaluation == tune.evaluation and cell.seed in tune.seeds:
                assert cell.trial is not None
                metrics = self.metrics(cell)
                if metrics is not None:
                    found.setdefault(cell.trial, []).append(metrics)
                elif self.failure(cell) is not None:
                    failed.add(cell.trial)
                else:
                    return None
        return {number: runs for number, runs in found.items() if number not in failed} or None

    def failure(self, cell: Cell) -> str | None:
        """Why an evaluation, or the run that it asks, failed, here or where its archive was made; None if neither did."""
        if state_of(cell, self.graph.pool, self.archive).done:
            return None
        for name in (cell.name, *cell.needs):
            state = state_of(self.graph.cells[name], self.graph.pool, self.archive)
            if state.word == "failed":
                return state.told
        return self.archive.failures.get(cell.folder.name)

    def _of_role(self, role: str, tune: Tune) -> Metrics | None:
        cells = [cell for cell in self.graph.cells.values() if cell.entry.role == role and cell.evaluation == tune.evaluation]
        return self.metrics(cells[0]) if cells else None

    def folder(self, cell: Cell) -> Path | None:
        """Where the evaluation of a cell lies: its run folder, or what the archive keeps of it; None if it is not done."""
        word = state_of(cell, self.graph.pool, self.archive).word
        if word == "finished":
            return cell.folder
        return self.archive.unpacked(cell.folder.name) if word == "kept" else None

    def metrics(self, cell: Cell) -> Metrics | None:
        """The numbers of an evaluation, computed from what it saved; None if it is not done."""
        folder = self.folder(cell)
        if folder is None:
            return None
        # Of data that are not handed on, numbers alone: the table is the same wherever it is made.
        return self.archive.numbers(cell.folder.name) or _metrics(folder)

    def measured(self) -> list[MeasuredCell]:
        """What the table is made from: every row under every seed and way of asking, as far as it is done."""
        found: list[MeasuredCell] = []
        for entry in self.study.entries.values():
            for evaluation in self.study.evaluations:
                if entry.name in self.choices:
                    found += self._chosen(entry, evaluation)
                    continue
                for cell in self.graph.cells.values():
                    final = cell.trial is None and cell.entry.name == entry.name and cell.evaluation == evaluation
                    metrics = self.metrics(cell) if final else None
                    if metrics is not None:
                        found.append(self._measured(cell, metrics, {}))
        return found

    def _chosen(self, entry: Entry, evaluation: str) -> list[MeasuredCell]:
        assert self.tune is not None
        chosen = {fold: choice.chosen.trial for fold, choice in self.choices[entry.name].items()}
        shown = {key: _one([self.setting(entry, number, key) for number in chosen.values()]) for key in self.tune.space}
        found = []
        for seed in entry.seeds:
            cells = {fold: self._final(entry, number, seed, evaluation) for fold, number in chosen.items()}
            runs = {fold: self.metrics(cell) for fold, cell in cells.items() if cell is not None}
            known = {fold: metrics for fold, metrics in runs.items() if metrics is not None}
            if len(known) < len(chosen):
                continue
            same = len({*chosen.values()}) == 1
            metrics = known[0] if same or self.tune.folds == 1 else crossfitted(known, self.folds)
            cell = cells[0]
            assert cell is not None
            found.append(self._measured(cell, metrics, shown))
        return found

    def setting(self, entry: Entry, trial: int, key: str) -> Any:
        """The value of a setting that a trial runs with, whether the study says it or a file of config/."""
        cells = self.graph.cells.values()
        own = (cell for cell in cells if (cell.entry.name, cell.trial, cell.script) == (entry.name, trial, entry.script))
        return OmegaConf.select(composed_settings(next(own)), key)

    def _final(self, entry: Entry, trial: int, seed: int, evaluation: str) -> Cell | None:
        for cell in self.graph.cells.values():
            if (cell.entry.name, cell.trial, cell.seed, cell.evaluation) == (entry.name, trial, seed, evaluation):
                return cell
        return None

    def _measured(self, cell: Cell, metrics: Metrics, settings: Mapping[str, Any]) -> MeasuredCell:
        folder = self.folder(cell)
        assert folder is not None
        return MeasuredCell(cell.entry.label, cell.entry.role, cell.seed, cell.evaluation or "", folder, metrics, settings)

    def keep(self, whole: bool = True) -> None:
        """Puts every finished evaluation of the study into its archive, and what failed with its sentence.

        whole: drops what is none of its cells any more, as far as all of them are known.
        """
        self.archive.failures = {
            cell.folder.name: why for cell in self.graph.evaluations() if (why := self.failure(cell)) is not None
        }
        for cell in self.graph.evaluations():
            if state_of(cell, self.graph.pool).word == "finished":
                made = self.graph.cells[cell.needs[0]] if cell.needs and cell.needs[0] in self.graph.cells else None
                own = made is not None and made.entry.name == cell.entry.name and made.evaluation is None
                self.archive.add(cell, made.folder if own and made is not None else None, partial(_metrics, cell.folder))
        if whole and not self.waiting:
            self.archive.keep_only(cell.folder.name for cell in self.graph.evaluations())
        self.archive.write()


_known: dict[tuple[str, float], Metrics] = {}


def _metrics(folder: Path) -> Metrics:
    from utils.report.comparison import recomputed
    from utils.report.read import read_run

    key = (str(folder.absolute()), (folder / "run.json").stat().st_mtime)
    if key not in _known:
        _known[key] = recomputed(read_run(folder))
    return _known[key]


def _one(values: list[Any]) -> Any:
    """A value that all parts share, or all of them in words."""
    different = list(dict.fromkeys(map(str, values)))
    return values[0] if len(different) == 1 else " | ".join(different)
