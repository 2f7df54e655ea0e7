"""A study as a graph of cells: each is one command line that a person could type, with one folder that it writes.

Cells lie in one folder for all studies, under a readable name and a hash of everything that changes their result, the cells they
start from included. So what two studies share (a target, an oracle, the evaluation of the untouched model) is made once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from utils.runs.capsule import result_hash
from utils.runs.cli import as_override, checked_settings, groups_of
from utils.studies.study import REFERENCE, Entry, Script, Study

POOL = Path("runs/cells")
ELSEWHERE = "DATA_ROOT"  # stands for a folder of data wherever it lies: run.json knows what is in its files
PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_./][\w./+-]*", re.IGNORECASE | re.ASCII)
CONFIG_OF: Mapping[Script, str] = {"finetune": "finetune", "localize": "unlearn", "unlearn": "unlearn", "evaluate": "evaluate"}


@dataclass(frozen=True)
class Cell:
    """One command. settings: what it is told, paths of other cells in place. needs: names of the cells whose folders it reads.

    entry, seed: whose and which; evaluation: the way of asking, None for a cell that trains or locates; trial: number of the
    tuning trial it belongs to, None for the study's own.
    """

    name: str
    script: Script
    settings: Mapping[str, Any]
    folder: Path
    needs: tuple[str, ...]
    entry: Entry
    seed: int | None
    evaluation: str | None = None
    trial: int | None = None
    processes: int = 1

    @property
    def words(self) -> list[str]:
        """The overrides as they are typed, `out` among them."""
        return [*_words(self.script, self.settings), _word("out", str(self.folder))]

    def command(self, again: bool = False) -> list[str]:
        """The command line. again: what the folder holds is given up."""
        file = "scripts/localize.py" if self.script == "localize" else f"{self.script}.py"
        start = ["python"] if self.processes == 1 else ["torchrun", "--standalone", f"--nproc_per_node={self.processes}"]
        return [*start, file, *self.words, *(["overwrite=true"] if again else [])]


@dataclass
class Graph:
    """The cells of a study by name, each after those it needs; utils/studies/planning.py puts them in."""

    study: Study
    pool: Path = POOL
    cells: dict[str, Cell] = field(default_factory=dict)
    _begun: list[str] = field(default_factory=list)  # names of the cells that are being put in, each needed by the one before

    def evaluations(self) -> list[Cell]:
        """The cells whose numbers the table shows."""
        return [cell for cell in self.cells.values() if cell.evaluation is not None]

    def add_with_evaluations(
        self,
        entry: Entry,
        seed: int | None,
        more: Mapping[str, Any] | None = None,
        trial: int | None = None,
        evaluations: Iterable[str] | None = None,
    ) -> list[Cell]:
        """The cells that evaluate an entry under one seed, with the one that makes it. more: settings over the entry's own."""
        made = self._make(entry, seed, more or {}, trial) if entry.script else None
        if entry.evaluate is None:
            return []
        return [self._ask(entry, seed, made, name, trial) for name in evaluations or self.study.evaluations]

    def _make(self, entry: Entry, seed: int | None, more: Mapping[str, Any], trial: int | None) -> Cell:
        assert entry.script is not None
        return self._add(
            _name(entry, seed, trial, more),
            entry,
            entry.script,
            {**entry.settings, **more, "seed": seed},
            seed,
            None,
            trial,
        )

    def _ask(self, entry: Entry, seed: int | None, made: Cell | None, evaluation: str, trial: int | None) -> Cell:
        settings = {
            **self.study.settings_of("evaluate"),
            **self.study.evaluations[evaluation],
            **(entry.evaluate or {}),
        }
        start = made.name if made else _name(entry, None, None, {})
        if made is not None:
            settings = {"model.path": str(made.folder), **settings}
        elif entry.path is not None:
            settings = {"model.path": entry.path, **settings}
        needs = (made.name,) if made else ()
        return self._add(f"{start}.{evaluation}", entry, "evaluate", settings, seed, evaluation, trial, needs)

    def _add(
        self,
        name: str,
        entry: Entry,
        script: Script,
        settings: Mapping[str, Any],
        seed: int | None,
        evaluation: str | None,
        trial: int | None,
        needs: tuple[str, ...] = (),
    ) -> Cell:
        if (known := self.cells.get(name)) is not None:
            if (known.entry.name, known.seed, known.evaluation) != (entry.name, seed, evaluation):
                raise ValueError(
                    f"study {self.study.name}: {known.entry.name} and {entry.name} both have a cell {name}; rename one of them"
                )
            return known
        if name in self._begun:
            way = " -> ".join([*self._begun[self._begun.index(name) :], name])
            raise ValueError(f"study {self.study.name}: {name} starts from itself ({way}); refer to another entry")
        used: list[str] = []
        self._begun.append(name)
        filled = {key: self._filled(value, seed, used) for key, value in settings.items() if value is not None or key != "seed"}
        self._begun.pop()
        try:
            folder = self.pool / _folder(script, filled, evaluation, str(self.pool))
        except ValueError as error:
            raise ValueError(f"study {self.study.name}, {entry.kind}.{entry.name}: {error}") from error
        processes = entry.processes or self.study.processes if script != "localize" else 1
        cell = Cell(
            name, script, filled, folder, tuple(dict.fromkeys([*needs, *used])), entry, seed, evaluation, trial, processes
        )
        self.cells[name] = cell
        return cell

    def _filled(self, value: Any, seed: int | None, used: list[str]) -> Any:
        """A value with folders in place of references; their cells are noted in `used`."""
        if isinstance(value, list | tuple):
            return [path for part in value for path in self._paths(part, seed, used)]
        paths, match = list(self._paths(value, seed, used)), _reference(value)
        return paths if match is not None and match["which"] else paths[0]

    def _paths(self, value: Any, seed: int | None, used: list[str]) -> Iterator[Any]:
        match = _reference(value)
        if match is None:
            yield value
            return
        entry = self.study.entries[match["entry"]]
        if entry.script is None:
            yield self._existing(entry, (match["inside"] or "").lstrip("/"), value, used)
            return
        meant = seed if seed is not None and seed in entry.seeds else entry.seeds[0]
        others = tuple(one for one in entry.seeds if one != meant)
        seeds = {"": (meant,), "*": entry.seeds, "+": others}[match["which"]]
        for one in seeds:
            inside = (match["inside"] or "").lstrip("/")
            cell = self._inner(entry, one, inside)
            used.append(cell.name)
            rest = inside.partition("/")[2] if cell.evaluation else inside
            yield str(cell.folder / rest) if rest else str(cell.folder)

    def _existing(self, entry: Entry, inside: str, value: str, used: list[str]) -> str:
        """What a reference to a model that exists means: its path, or with @NAME/EVALUATION an evaluation of it."""
        evaluation, _, rest = inside.partition("/")
        if evaluation in self.study.evaluations:
            cell = self._ask(entry, None, None, evaluation, None)
            used.append(cell.name)
            return str(cell.folder / rest)
        if entry.path is None:
            raise ValueError(f"{value}: {entry.name} has no folder of its own; give it a path")
        return str(Path(entry.path) / inside) if inside else entry.path

    def _inner(self, entry: Entry, seed: int, inside: str) -> Cell:
        """The cell that a reference means: the entry's own, or with @NAME/EVALUATION one of its evaluations."""
        made = self._make(entry, seed, {}, None)
        evaluation = inside.partition("/")[0]
        return self._ask(entry, seed, made, evaluation, None) if evaluation in self.study.evaluations else made


def _reference(value: Any) -> re.Match[str] | None:
    return REFERENCE.fullmatch(value) if isinstance(value, str) else None


def _name(entry: Entry, seed: int | None, trial: int | None, more: Mapping[str, Any]) -> str:
    parts = [entry.name]
    if trial is not None:
        parts.append(f"t{trial:02d}")
    elif more:
        parts.append("tuned")
    return "_".join([*parts, *([f"s{seed}"] if seed is not None and entry.script else [])])


def _words(script: Script, settings: Mapping[str, Any]) -> list[str]:
    groups = groups_of(CONFIG_OF[script])
    first = [key for key in settings if key in groups]  # as people write them; the order changes nothing
    return [_word(key, settings[key]) for key in [*first, *(key for key in settings if key not in groups)]]


def _word(key: str, value: Any) -> str:
    """An override as people type it, with quotes only where Hydra or a shell would read something else."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) and PLAIN.fullmatch(one) for one in value):
        return f"{key}=[{','.join(value)}]"
    return f"{key}={value}" if isinstance(value, str) and PLAIN.fullmatch(value) else as_override(key, value)


def own_settings(entry: Entry, keys: Iterable[str]) -> dict[str, Any]:
    """What a trained entry's own command works with under these keys, whether it says so or leaves it to the files."""
    assert entry.script is not None
    composed = _settings(entry.script, entry.settings, str(POOL))
    return {key: OmegaConf.select(composed, key) for key in keys}


def composed_settings(cell: Cell) -> DictConfig:
    """All settings that a cell's command works with, as far as they stand in files and on its line."""
    return _settings(cell.script, cell.settings, str(cell.folder.parent))


def _settings(script: Script, settings: Mapping[str, Any], pool: str) -> DictConfig:
    changing = {key: value for key, value in settings.items() if _is_number(value) or _in_pool(value, pool)}
    # One composition, which takes most of a second, serves all cells that differ in numbers and in what they start from.
    blank = {key: 1 if _is_number(value) else [] if isinstance(value, list) else "" for key, value in changing.items()}
    told = {key: blank.get(key, value) for key, value in settings.items() if key != "seed"}
    try:
        composed = _composed(CONFIG_OF[script], tuple(_words(script, told))).copy()
    except ValueError:
        checked_settings(CONFIG_OF[script], _words(script, settings))  # the sentence with the values that were written
        raise
    with open_dict(composed):
        for key, value in changing.items():
            OmegaConf.update(composed, key, _moved(value, pool), force_add=True)
        if composed.data_root not in ("fixture", "hub"):
            composed.data_root = ELSEWHERE
    return composed


def _folder(script: Script, settings: Mapping[str, Any], evaluation: str | None, pool: str) -> str:
    """A readable name, and 8 hex digits of all settings that the command works with, wherever the pool lies."""
    return _folder_of(script, json.dumps(settings), evaluation, pool)


@cache  # a study is planned anew after every stage
def _folder_of(script: Script, said: str, evaluation: str | None, pool: str) -> str:
    settings = json.loads(said)
    composed = _settings(script, settings, pool)
    plain = OmegaConf.to_container(composed, resolve=True)
    digest = result_hash({"script": script, **plain})[:8]
    if evaluation is not None and _in_pool(settings.get("model.path"), pool):
        made = Path(settings["model.path"]).name.rpartition("-")[0]
        return f"{made}_{evaluation}-{digest}"
    parts = [composed.benchmark.name, str(composed.split).replace("/", "_"), composed.model.name]
    parts.append(evaluation or ("region" if script == "localize" else composed.method.name))
    return "_".join([*parts, *([f"s{settings['seed']}"] if "seed" in settings else [])]) + f"-{digest}"


@cache
def _composed(config: str, words: tuple[str, ...]) -> DictConfig:
    """Raises ValueError for what the script would refuse."""
    return checked_settings(config, words)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_pool(value: Any, pool: str) -> bool:
    return any(isinstance(part, str) and part.startswith(f"{pool}/") for part in (value if isinstance(value, list) else [value]))


def _moved(value: Any, pool: str) -> Any:
    if isinstance(value, list):
        return [_moved(part, pool) for part in value]
    return value.removeprefix(pool) if isinstance(value, str) else value
