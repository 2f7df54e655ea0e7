"""A study's cells from one machine to another: the scores of what is evaluated, and the models that other cells start from."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from utils.files import whole_folder
from utils.studies.archive import CELLS, TABLES, Archive
from utils.studies.planning import Plan

SCORES, MODELS = "scores", "models"


def export(plan: Plan, file: Path) -> int:
    """Packs what is done into one file; the number of evaluations. Rows' weights stay behind: their scores are what counts.

    Raises ValueError if there is nothing, or a file already.
    """
    if file.exists():
        raise ValueError(f"export={file}: exists; choose another")
    plan.keep()
    if not plan.archive.lines:
        raise ValueError(f"study {plan.study.name}: nothing of it is done, so there is nothing to carry")
    partial = file.with_name(f"{file.name}.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(partial, "w") as packed:
        packed.add(plan.archive.folder / CELLS, f"{SCORES}/{CELLS}")
        packed.add(plan.archive.folder / TABLES, f"{SCORES}/{TABLES}")
        for folder in _models(plan):
            packed.add(folder, f"{MODELS}/{folder.name}")
    partial.rename(file)
    return len(plan.archive.lines)


def merge(plan: Plan, files: Sequence[Path]) -> int:
    """Takes over what other machines did; the number of evaluations that are new here. Raises ValueError for a file that is no
    export of this study's cells."""
    new = 0
    for file in files:
        with tempfile.TemporaryDirectory() as place:
            try:
                with tarfile.open(file) as packed:
                    packed.extractall(place, filter="data")
            except (OSError, tarfile.TarError) as error:
                raise ValueError(f"merge={file}: cannot be unpacked ({error}); export it again") from error
            if not (Path(place) / SCORES / CELLS).is_file():
                raise ValueError(f"merge={file}: holds no scores of a study; make it with export=FILE")
            new += _taken(plan, Path(place))
    plan.archive.write()
    return new


def _taken(plan: Plan, place: Path) -> int:
    other = Archive.of(SCORES, place)
    wanted = {cell.folder.name for cell in plan.graph.evaluations()}
    tables = plan.archive.folder / TABLES
    tables.mkdir(parents=True, exist_ok=True)
    new = [name for name in other if name in wanted and name not in plan.archive]
    for name in new:
        for table in other.lines[name]["files"].values():
            shutil.copyfile(place / SCORES / TABLES / f"{table}.parquet", tables / f"{table}.parquet")
        plan.archive.lines[name] = other.lines[name]
    known = {cell.folder.name: cell.folder for cell in plan.graph.cells.values()}
    for folder in sorted((place / MODELS).glob("*")):
        target = known.get(folder.name)
        if target is not None and not target.exists():
            with whole_folder(target) as partial:
                shutil.copytree(folder, partial, dirs_exist_ok=True)
    return len(new)


def _models(plan: Plan) -> list[Path]:
    """Folders of finished targets, oracles and regions."""
    found = plan.states
    return [
        cell.folder
        for name, cell in plan.graph.cells.items()
        if cell.entry.kind != "rows" and cell.evaluation is None and found[name].word == "finished"
    ]
