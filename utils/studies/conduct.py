"""Runs what a study still needs, stage after stage, and shows how far its cells are while it does."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from utils.interruption import Interrupted
from utils.studies.cells import Cell, Graph
from utils.studies.launch import Launch
from utils.studies.planning import Plan
from utils.studies.states import State, needed, ready

SHOWN_EVERY = 2.0  # seconds
TOLD = ("running", "finished", "failed", "interrupted")
Replan = Callable[[], Plan]  # as what is finished now lets it be known: tuned rows appear when their trials are done


def conduct(replan: Replan, launch: Launch, say: Callable[[str], None] = print) -> None:
    """Runs stage after stage until nothing is left that can begin; what another study runs is waited for.

    What failed stays failed for this call, and so does what needs it; the same call tries both again. Raises Interrupted if this
    launch was asked to stop, when the cells that ran have written their checkpoints.
    """
    tried: set[str] = set()
    while True:
        plan = replan()
        graph, found = plan.graph, plan.states
        give_up_weights(graph, found)
        stage = [cell for cell in ready(graph, _hopeful(graph, found, tried)) if cell.name not in tried]
        if not stage:
            others = [cell.name for cell in needed(graph, found) if found[cell.name].word == "running"]
            if not others:
                return
            say(f"waiting for what is run elsewhere: {', '.join(others)}")
            while all(plan.states[name].word == "running" for name in others):
                time.sleep(SHOWN_EVERY)
            continue
        again = [cell.name for cell in stage if found[cell.name].word == "spent"]
        with watched(plan, stage, say):
            taken = launch.run(stage, again)
        tried |= {cell.name for cell in stage} - taken
        if launch.stopped:
            raise Interrupted(signal.SIGTERM)


def _hopeful(graph: Graph, found: Mapping[str, State], tried: Collection[str]) -> dict[str, State]:
    """The states, but what failed in an earlier call waits for another try."""
    again: dict[str, State] = {}
    for name, state in found.items():
        lost = name in tried or any(again[need].word in ("failed", "blocked") for need in graph.cells[name].needs)
        again[name] = State("waiting") if state.word in ("failed", "blocked") and not lost else state
    return again


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
                aside = model.with_name("model.gone")  # at once: half of its files would pass for a model
                shutil.rmtree(aside, ignore_errors=True)
                model.rename(aside)
                shutil.rmtree(aside)
                gone.append(name)
    return gone


@contextmanager
def watched(plan: Plan, stage: Sequence[Cell], say: Callable[[str], None]) -> Iterator[None]:
    """Tells what becomes of the cells of a stage while they run: a line for each change, below them how many are done."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(plan, stage, say, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(plan: Plan, stage: Sequence[Cell], say: Callable[[str], None], over: threading.Event) -> None:
    told: dict[str, str] = {}
    screen = sys.stderr.isatty()
    while True:
        last = over.wait(SHOWN_EVERY)
        found = plan.states
        running = [line(cell, found[cell.name]) for cell in stage if found[cell.name].word == "running"]
        for cell in stage:
            state = found[cell.name]
            old = cell.name not in told and state.word in ("failed", "interrupted") and not last  # of an earlier call
            if state.word in TOLD and told.get(cell.name) != state.word and not old:
                told[cell.name] = state.word
                say(("\r\033[K" if screen else "") + line(cell, state))
        if screen:
            now = f"{summary(found)}; {'; '.join(running)}" if running else summary(found)
            sys.stderr.write(f"\r\033[K{now[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()
        if last:
            if screen:
                sys.stderr.write("\n")
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
