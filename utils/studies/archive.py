"""What of a study is committed beside its table: every evaluated cell's scores, compact, so that table and numbers can be made
again where no run folder is.

    <study>/cells.jsonl             a line for each evaluation: what it is, run.json of it and of its training, its metrics
    <study>/scores/<hash>.parquet   its files: token scores, answers, the oracle's scores; equal ones lie there once

Unpacked, an evaluation is an ordinary folder, as evaluate.py left it: whoever reads those reads these.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from utils import ROOT
from utils.evaluation.results import GENERATIONS, NULLS, ORACLE, SCORES, describe
from utils.files import read_json, read_rows, write_json, write_rows
from utils.fingerprint import file_hash
from utils.studies.cells import Cell

FOLDER = ROOT / "docs" / "results"
CELLS, TABLES = "cells.jsonl", "scores"
UNPACKED = Path(".cache/lethe/studies")
TRAINING_FACTS = tuple(
    "script status settings settings_hash role seconds steps items tokens batch weights code started libraries".split()
)


@dataclass
class Archive:
    """The committed cells of one study: folder name of the evaluation -> its line of cells.jsonl."""

    folder: Path
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, study: str, root: Path = FOLDER) -> Archive:
        """The archive of a study, empty if nothing is committed. Raises ValueError for a damaged one."""
        folder = root / study
        path = folder / CELLS
        return cls(folder, {line["folder"]: line for line in read_rows(path)} if path.is_file() else {})

    def __contains__(self, folder: object) -> bool:
        return folder in self.lines

    def __iter__(self):
        return iter(self.lines)

    def add(self, cell: Cell, training: Path | None) -> None:
        """Keeps a finished evaluation; `write` puts it on disk. training: the run folder that it evaluated."""
        capsule = read_json(cell.folder / "run.json") or {}
        if self.lines.get(cell.folder.name, {}).get("hash") == _identity(capsule):
            return
        tables = self.folder / TABLES
        tables.mkdir(parents=True, exist_ok=True)
        files = {name: _packed(cell.folder / name, tables) for name in _files(cell.folder)}
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
            "training": None if trained is None else {key: trained[key] for key in TRAINING_FACTS if key in trained},
            "capsule": {key: value for key, value in capsule.items() if key != "results"},
            "metrics": read_json(cell.folder / "metrics.json"),
        }

    def keep_only(self, names: Iterable[str]) -> None:
        """Drops what belongs to none of these folders any more, and tables that nothing reads."""
        kept = set(names)
        self.lines = {name: line for name, line in self.lines.items() if name in kept}

    def write(self) -> None:
        """Writes cells.jsonl, and deletes tables that no line names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_rows(self.folder / CELLS, sorted(self.lines.values(), key=lambda line: line["name"]))
        used = {file for line in self.lines.values() for file in line["files"].values()}
        for path in (self.folder / TABLES).glob("*.parquet"):
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
            path = self.folder / TABLES / f"{table}.parquet"
            if not path.is_file() or file_hash(path) != table:
                raise ValueError(f"{path} is {'damaged' if path.is_file() else 'missing'}; bring it back from the repository")
            target = partial / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".jsonl":
                write_rows(target, [json.loads(row) for row in pd.read_parquet(path)["row"]])
            else:
                shutil.copyfile(path, target)
        write_json(partial / "metrics.json", line["metrics"])
        write_json(partial / "run.json", {**line["capsule"], "results": describe(partial)})
        partial.rename(folder)
        return folder


def _identity(capsule: Mapping[str, Any]) -> str:
    """Which evaluation this is: another run of the same settings is another one."""
    from utils.fingerprint import text_hash

    return text_hash(json.dumps([capsule.get("started"), capsule.get("results"), capsule.get("weights")], sort_keys=True))


def _files(folder: Path) -> list[str]:
    names = [name for name in (SCORES, GENERATIONS, ORACLE) if (folder / name).is_file()]
    return [*names, *(str(path.relative_to(folder)) for path in sorted((folder / NULLS).glob("*.parquet")))]


def _packed(path: Path, tables: Path) -> str:
    """Writes a file of an evaluation as a compact table; its hash."""
    if path.suffix == ".jsonl":
        rows = [json.dumps(row, ensure_ascii=False) for row in read_rows(path)]
        table = pd.DataFrame({"row": rows})
    else:
        table = pd.read_parquet(path)
    partial = tables / f"{path.name}.partial"
    table.to_parquet(partial, index=False, compression="zstd", compression_level=19)
    digest = file_hash(partial)
    partial.rename(tables / f"{digest}.parquet")
    return digest
