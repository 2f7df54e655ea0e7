"""How far the cells of a study are, as their folders and the ends of their orders tell: whoever asks, from whatever shell."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils import alive
from utils.files import read_json, read_rows
from utils.runs.run import LOCK
from utils.runs.series import finished_run
from utils.studies.cells import Cell, Graph
from utils.studies.runner import BEHIND

Word = Literal["finished", "spent", "kept", "running", "interrupted", "failed", "blocked", "waiting"]


@dataclass(frozen=True)
class State:
    """word: spent means that its weights were given up when all had read them, kept that its scores are in the study's archive
    and its folder is not here.

    told: why it failed, or what it waits for. step of steps, and seconds left, of a run that trains. seconds: what it took.
    """

    word: Word
    told: str = ""
    step: int | None = None
    steps: int | None = None
    left: float | None = None
    seconds: float | None = None

    @property
    def done(self) -> bool:
        return self.word in ("finished", "spent", "kept")


def states(graph: Graph, kept: Collection[str] = ()) -> dict[str, State]:
    """State of every cell by name. kept: folder names of evaluations that the archive holds."""
    found: dict[str, State] = {}
    for name, cell in graph.cells.items():
        state = state_of(cell, graph.pool, kept)
        if state.word in ("waiting", "interrupted"):
            failed = [need for need in cell.needs if found[need].word in ("failed", "blocked")]
            if failed:
                state = State("blocked", f"{failed[0]} failed")
        found[name] = state
    return found


def state_of(cell: Cell, pool: Path, kept: Collection[str] = ()) -> State:
    """The state of one cell, whatever the cells are that it needs."""
    capsule = finished_run(cell.folder)
    if capsule is not None:
        gone = cell.script in ("finetune", "unlearn") and not (cell.folder / "model").is_dir()
        return State("spent" if gone else "finished", seconds=capsule.get("seconds"))
    if cell.script == "localize" and (cell.folder / "region.json").is_file():
        return State("finished", seconds=_end(cell, pool).get("seconds"))
    if cell.folder.name in kept:
        return State("kept")
    if alive.held(pool / BEHIND / f"{cell.folder.name}.lock") is not None or alive.held(cell.folder / LOCK) is not None:
        return _running(cell)
    end = _end(cell, pool)
    if end.get("status") == "failed":
        return State("failed", str(end.get("told", "")))
    started = (cell.folder / "run.json").is_file()
    return State("interrupted", seconds=None) if started or end.get("status") in ("running", "stopped") else State("waiting")


def _end(cell: Cell, pool: Path) -> dict:
    return read_json(pool / BEHIND / f"{cell.folder.name}.json") or {}


def _running(cell: Cell) -> State:
    capsule = read_json(cell.folder / "run.json") or {}
    steps = capsule.get("steps")
    lines: list[int] = []
    with suppress(OSError):  # a folder that is given up this moment
        lines = [line["step"] for line in read_rows(cell.folder / "log.jsonl", appended=True)[-1:] if "step" in line]
    if not lines or not steps:
        return State("running")
    left = None
    with suppress(OSError, ZeroDivisionError):  # files that are gone meanwhile, a step that is none yet
        began, seen = ((cell.folder / name).stat().st_mtime for name in ("config.yaml", "log.jsonl"))
        left = max(0.0, (seen - began) / lines[0] * (steps - lines[0]) - (time.time() - seen))
    return State("running", step=lines[0], steps=steps, left=left)


def needed(graph: Graph, found: Mapping[str, State], wanted: Collection[str] | None = None) -> list[Cell]:
    """The cells that are still to be run for the wanted ones (default: all evaluations), each after what it needs."""
    names = [cell.name for cell in graph.evaluations()] if wanted is None else list(wanted)
    cells: dict[str, Cell] = {}

    def visit(name: str, to_be_read: bool) -> None:
        here = found[name].word == "finished" or (found[name].done and not to_be_read)
        if not here and name not in cells:
            for need in graph.cells[name].needs:
                visit(need, True)
            cells[name] = graph.cells[name]

    for name in names:
        visit(name, False)
    return list(cells.values())


def ready(graph: Graph, found: Mapping[str, State], wanted: Collection[str] | None = None) -> list[Cell]:
    """The stage that can begin now: needed cells all of whose needs are there, and that have not failed."""
    return [
        cell
        for cell in needed(graph, found, wanted)
        if found[cell.name].word not in ("failed", "blocked", "running")
        and all(found[need].word == "finished" for need in cell.needs)
    ]
