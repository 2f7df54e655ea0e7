"""What of a study is committed beside its table: every evaluated cell's scores, compact, so that table and numbers can be made
again where no run folder is.

    <study>/cells.jsonl             a line for each evaluation: what it is, run.json of it and of its training, its metrics
    <study>/scores/<hash>.parquet   its files: token scores, answers, the oracle's scores; equal ones lie there once
    <study>/failed.json             evaluations that there are not -> why

Of an evaluation on data that are not shipped here only numbers are kept (utils.tables.numbers.py), no text and no path.
Unpacked, an evaluation is an ordinary folder, as evaluate.py left it: whoever reads those reads these.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from utils import ROOT
from utils.evaluation.results import describe, saved_files
from utils.files import flat_settings, read_json, read_rows, write_json, write_rows
from utils.fingerprint import file_hash, text_hash
from utils.items.metric import Metric
from utils.runs.inputs import inputs
from utils.studies.cells import ELSEWHERE, POOL, Cell
from utils.tables.numbers import from_table, to_table

FOLDER = ROOT / "docs" / "results"
CELLS, TABLES, FAILURES = "cells.jsonl", "scores", "failed.json"
UNPACKED = Path(".cache/lethe/studies")
NUMBERS = "numbers.parquet"
SHIPPED = "fixture"  # data_root of what may be handed on whole
FACTS = tuple(
    "script status settings settings_hash role seconds steps items tokens batch weights requests lost code started "
    "libraries".split()
)


@dataclass
class Archive:
    """The committed cells of one study: folder name of the evaluation -> its line of cells.jsonl, or why it failed."""

    folder: Path
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, study: str, root: Path = FOLDER) -> Archive:
        """The archive of a study, empty if nothing is committed. Raises ValueError for a damaged one."""
        folder = root / study
        path = folder / CELLS
        failures = read_json(folder / FAILURES) or {}
        if not path.is_file():
            return cls(folder, failures=failures)
        first, *lines = read_rows(path) or [{}]
        try:
            for entry in (entry for line in lines for entry in line["metrics"].values()):
                entry["definition"] = first["definitions"][entry["definition"]]
            return cls(folder, {line["folder"]: line for line in lines}, failures)
        except (LookupError, TypeError, AttributeError) as error:
            again = "bring it back, or delete it: what the pool holds is kept anew"
            raise ValueError(f"{path}: is no archive of a study ({type(error).__name__}: {error}); {again}") from error

    def __contains__(self, folder: object) -> bool:
        return folder in self.lines

    def __iter__(self):
        return iter(self.lines)

    def add(self, cell: Cell, training: Path | None, metrics: Callable[[], Mapping[str, Metric]]) -> None:
        """Keeps a finished evaluation; `write` puts it on disk. training: the run that it evaluated. metrics: its numbers."""
        capsule = read_json(cell.folder / "run.json") or {}
        tables, known = self.folder / TABLES, self.lines.get(cell.folder.name)
        if known is not None and known["hash"] == _identity(capsule):
            if all((tables / f"{table}.parquet").is_file() for table in known["files"].values()):
                return
        tables.mkdir(parents=True, exist_ok=True)
        about: Mapping[str, Any] = {}
        if _may_go_along(capsule["settings"]):
            files = {name: _packed(cell.folder / name, tables) for name in saved_files(cell.folder)}
        else:
            table, about = to_table(metrics())
            files = {NUMBERS: _written(table, tables)}
        trained = read_json(training / "run.json") if training is not None else None
        self.lines[cell.folder.name] = {
            "folder": cell.folder.name,
            "name": cell.name,
            "entry": cell.entry.name,
            "seed": cell.seed,
            "evaluation": cell.evaluation,
            "trial": cell.trial,
            "hash": _identity(capsule),
            "files": files,
            "numbers": about,
            "training": None if trained is None else _facts(trained, cell.folder.parent),
            "capsule": _facts(capsule, cell.folder.parent),
            "metrics": read_json(cell.folder / "metrics.json"),
        }

    def numbers(self, name: str) -> dict[str, Metric] | None:
        """The metrics of an evaluation of which only these are kept; None for others."""
        line = self.lines.get(name)
        if line is None or NUMBERS not in line["files"]:
            return None
        return from_table(pd.read_parquet(self._table(line["files"][NUMBERS])), line["numbers"], line["metrics"])

    def _table(self, digest: str) -> Path:
        path = self.folder / TABLES / f"{digest}.parquet"
        if not path.is_file() or file_hash(path) != digest:
            raise ValueError(f"{path} is {'damaged' if path.is_file() else 'missing'}; bring it back from the repository")
        return path

    def keep_only(self, names: Iterable[str]) -> None:
        """Drops what belongs to none of these folders any more, and tables that nothing reads."""
        kept = set(names)
        self.lines = {name: line for name, line in self.lines.items() if name in kept}

    def write(self) -> None:
        """Writes cells.jsonl and failed.json, and deletes tables that no line names; nothing where there is nothing."""
        if not (self.lines or self.failures or self.folder.is_dir()):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        texts: dict[str, int] = {}  # what numbers mean: the same sentences in every line, so they stand in the first
        lines = [
            {**line, "metrics": {name: _with_number(entry, texts) for name, entry in line["metrics"].items()}}
            for line in sorted(self.lines.values(), key=lambda line: line["name"])
        ]
        write_rows(self.folder / CELLS, [{"definitions": list(texts)}, *lines])
        if self.failures or (self.folder / FAILURES).is_file():
            write_json(self.folder / FAILURES, dict(sorted(self.failures.items())))
        used = {file for line in self.lines.values() for file in line["files"].values()}
        for path in (self.folder / TABLES).glob("*.p*"):  # also half a table of a call that was killed
            if path.stem not in used:
                path.unlink()

    def unpacked(self, name: str, into: Path = UNPACKED) -> Path:
        """The folder of an archived evaluation, made if it is not there. Raises ValueError for a damaged table."""
        line = self.lines[name]
        folder = into / f"{name}-{line['hash']}"
        if (folder / "run.json").is_file():
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for file, table in line["files"].items():
            path, target = self._table(table), partial / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".jsonl":
                write_rows(target, [json.loads(row) for row in pd.read_parquet(path)["row"]])
            else:
                shutil.copyfile(path, target)
        write_json(partial / "metrics.json", line["metrics"])
        write_json(partial / "run.json", {**line["capsule"], "results": describe(partial)})
        partial.rename(folder)
        return folder


def _with_number(entry: Mapping[str, Any], texts: dict[str, int]) -> dict[str, Any]:
    return {**entry, "definition": texts.setdefault(entry["definition"], len(texts))}


def _identity(capsule: Mapping[str, Any]) -> str:
    """Which evaluation this is: another run of the same settings is another one."""
    return text_hash(json.dumps([capsule.get("started"), capsule.get("results"), capsule.get("weights")], sort_keys=True))


def _facts(capsule: Mapping[str, Any], pool: Path) -> dict[str, Any]:
    """What of a run.json goes along: no command and no machine, and paths as if the cells lay where they do by default."""
    kept = {key: capsule[key] for key in FACTS if key in capsule}
    data_root = kept["settings"]["data_root"]
    moved = {f"{pool}/": f"{POOL}/", **({} if data_root in (SHIPPED, "hub") else {str(data_root): ELSEWHERE})}
    return _replaced(kept, moved)


def _replaced(value: Any, moved: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _replaced(entry, moved) for key, entry in value.items()}
    if isinstance(value, list):
        return [_replaced(entry, moved) for entry in value]
    for start, instead in moved.items() if isinstance(value, str) else ():
        if value.startswith(start):
            return instead + value[len(start) :]
    return value


def _may_go_along(settings: Mapping[str, Any]) -> bool:
    """Whether the texts of an evaluation are those that the project ships: its fixture, and no data that somebody named."""
    values = [str(value) for key, value in flat_settings(settings).items() if key.startswith("benchmark.")]
    named = any(key.startswith("benchmark.") for key, _ in inputs(settings)) or any(value.startswith("hub:") for value in values)
    return settings["data_root"] == SHIPPED and not named


def _packed(path: Path, tables: Path) -> str:
    """Writes a file of an evaluation as a compact table; its hash."""
    if path.suffix == ".jsonl":
        rows = [json.dumps(row, ensure_ascii=False) for row in read_rows(path)]
        table = pd.DataFrame({"row": rows})
    else:
        table = pd.read_parquet(path)
    return _written(table, tables)


def _written(table: pd.DataFrame, tables: Path) -> str:
    partial = tables / "new.partial"
    table.to_parquet(partial, index=False, compression="zstd", compression_level=19)
    digest = file_hash(partial)
    partial.rename(tables / f"{digest}.parquet")
    return digest
