"""Runs what a study still needs, stage after stage, and shows how far its cells are while it does."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager

from utils.studies.cells import Cell, Graph
from utils.studies.launch import Launch
from utils.studies.states import State, needed, ready, states

SHOWN_EVERY = 2.0  # seconds
Replan = Callable[[], Graph]  # the graph as what is finished now lets it be known: tuned rows appear when their trials are done


def conduct(plan: Replan, launch: Launch, kept: Collection[str] = (), say: Callable[[str], None] = print) -> dict[str, State]:
    """Runs stage after stage until nothing is left that can begin; returns the states of all cells.

    What failed stays failed for this call, and so does what needs it; the same call tries both again. Raises KeyboardInterrupt when
    the cells that ran have written their checkpoints.
    """
    tried: set[str] = set()
    while True:
        graph = plan()
        found = states(graph, kept)
        give_up_weights(graph, found)
        stage = [cell for cell in _stage(graph, found, tried)]
        if not stage:
            return states(graph, kept)
        tried |= {cell.name for cell in stage}
        again = [cell.name for cell in stage if found[cell.name].word in ("spent", "kept")]
        with watched(graph, stage, kept, say):
            launch.run(stage, again)


def _stage(graph: Graph, found: Mapping[str, State], tried: Collection[str]) -> list[Cell]:
    """What can begin, what failed in an earlier call included."""
    fresh = {
        name: State("waiting") if state.word in ("failed", "blocked") and name not in tried and not _hopeless(graph, name, tried) else state
        for name, state in found.items()
    }  # fmt: skip
    return [cell for cell in ready(graph, fresh) if cell.name not in tried]


def _hopeless(graph: Graph, name: str, tried: Collection[str]) -> bool:
    """Whether something that the cell needs has failed in this call."""
    return any(need in tried or _hopeless(graph, need, tried) for need in graph.cells[name].needs)


def give_up_weights(graph: Graph, found: Mapping[str, State]) -> list[str]:
    """Deletes the weights of rows that nothing will read any more, as `keep` says; returns their names."""
    keep = graph.study.keep
    if keep == "model":
        return []
    open_needs = {need for cell in needed(graph, found) for need in cell.needs}
    gone = []
    for name, cell in graph.cells.items():
        model = cell.folder / "model"
        if cell.entry.kind != "rows" or cell.evaluation or found[name].word != "finished" or name in open_needs:
            continue
        readers = [other for other in graph.cells.values() if name in other.needs]
        if all(found[other.name].done for other in readers) and readers and model.is_dir():
            if keep == "scores" or not (model / "adapter_config.json").is_file():
                shutil.rmtree(model)
                gone.append(name)
    return gone


@contextmanager
def watched(graph: Graph, stage: list[Cell], kept: Collection[str], say: Callable[[str], None]):
    """Tells what becomes of the cells of a stage while they run: a table that renews itself, or lines where there is no screen."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(graph, stage, kept, say, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(graph: Graph, stage: list[Cell], kept: Collection[str], say: Callable[[str], None], over: threading.Event) -> None:
    told: dict[str, str] = {}
    while True:
        last = over.wait(SHOWN_EVERY)
        found = states(graph, kept)
        for cell in stage:
            state = found[cell.name]
            if state.word in ("running", "finished", "failed", "interrupted") and told.get(cell.name) != state.word:
                if not (cell.name not in told and state.word in ("failed", "interrupted") and not last):
                    told[cell.name] = state.word
                    say(line(cell, state))
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{summary(found)}{'' if not last else chr(10)}")
            sys.stderr.flush()
        if last:
            return


def line(cell: Cell, state: State) -> str:
    """One cell in words."""
    took = f" in {duration(state.seconds)}" if state.seconds is not None and state.done else ""
    steps = f" {state.step}/{state.steps}" if state.step is not None else ""
    left = f", {duration(state.left)} left" if state.left is not None else ""
    why = f": {state.told}" if state.told else ""
    return f"{state.word:<11} {cell.name}{steps}{left}{took}{why}"


def summary(found: Mapping[str, State]) -> str:
    """How many cells are in which state."""
    counts = {word: sum(state.word == word for state in found.values()) for word in dict.fromkeys(s.word for s in found.values())}
    done = sum(state.done for state in found.values())
    rest = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()) if word not in ("finished", "spent", "kept"))
    return f"{done} of {len(found)} cells done{f' ({rest})' if rest else ''}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 7 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
