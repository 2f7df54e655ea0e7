"""What `python scripts/study.py NAME KEY=VALUE ...` does."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.checks import did_you_mean_or_all, flag
from utils.files import read_json, write_json
from utils.runs.cli import parse_overrides
from utils.studies.cells import POOL, Graph
from utils.studies.conduct import conduct, duration, line, summary
from utils.studies.estimate import estimated
from utils.studies.launch import Launch
from utils.studies.runner import BEHIND, stop
from utils.studies.states import State, needed, states
from utils.studies.study import Study, read_study, studies

SWITCHES = ("plan", "status", "stop")


@dataclass(frozen=True)
class Asked:
    """A command line, read. name: None for all studies."""

    name: str | None
    overrides: Sequence[str]
    switches: Mapping[str, bool]
    pool: Path

    @classmethod
    def of(cls, words: Sequence[str]) -> Asked:
        """Raises ValueError for what is neither a study nor key=value."""
        names = [word for word in words if "=" not in word]
        if len(names) > 1:
            raise ValueError(f"{' '.join(names)}: one study at a time")
        if names and names[0] not in studies():
            raise ValueError(f"{names[0]}: there is no such study{did_you_mean_or_all(names[0], studies())}")
        switches, pool, rest = dict.fromkeys(SWITCHES, False), POOL, []
        for override in parse_overrides([word for word in words if "=" in word]):
            key, value = override.key_or_group, override.value()
            if key in SWITCHES:
                flag(key, value)
                switches[key] = value
            elif key == "pool":
                pool = Path(str(value))
            else:
                rest.append(override.input_line)
        return cls(names[0] if names else None, rest, switches, pool)


def run(words: Sequence[str]) -> int:
    """Does what the words say; the exit code. Raises ValueError for what cannot be done."""
    asked = Asked.of(words)
    if asked.name is None:
        for name in studies():
            graph = Graph.of(read_study(name, asked.overrides), asked.pool)
            print(f"{name}: {graph.study.title}: {summary(states(graph))}")
        return 0
    study = read_study(asked.name, asked.overrides)
    if asked.switches["stop"]:
        return _stop(study, asked.pool)
    graph = Graph.of(study, asked.pool)
    if asked.switches["plan"]:
        print(planned(graph))
        return 0
    if asked.switches["status"]:
        print(status(graph))
        return 0
    launch = Launch(study.launcher, asked.pool, dict(study.launch), study.parallel)
    launch.check()
    return _conducted(study, asked, launch)


def _conducted(study: Study, asked: Asked, launch: Launch) -> int:
    launch.behind.mkdir(parents=True, exist_ok=True)
    write_json(launch.behind / f"{study.name.replace('/', '_')}.launch", {"token": launch.token})
    try:
        with _terminated_like_interrupted():
            found = conduct(lambda: Graph.of(study, asked.pool), launch)
    except KeyboardInterrupt:
        print(f"stopped; {summary(states(Graph.of(study, asked.pool)))}. The same command goes on", file=sys.stderr)
        return 130
    print(summary(found))
    return 0 if all(found[cell.name].done for cell in Graph.of(study, asked.pool).evaluations()) else 1


@contextmanager
def _terminated_like_interrupted():
    """A cluster's SIGTERM is a Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(study: Study, pool: Path) -> int:
    launched = read_json(pool / BEHIND / f"{study.name.replace('/', '_')}.launch")
    if launched is None:
        raise ValueError(f"study {study.name}: was not started in {pool}; nothing to stop")
    stop(pool / BEHIND, launched["token"])
    print("asked to stop: what runs writes its checkpoint, nothing new begins")
    return 0


def planned(graph: Graph) -> str:
    """The plan in words: stages of commands, what exists, and what is still to be paid."""
    found = states(graph)
    todo = needed(graph, found)
    lines = [f"{graph.study.title} ({graph.study.name}): {summary(found)}", ""]
    depth: dict[str, int] = {}
    for cell in todo:
        depth[cell.name] = 1 + max((depth.get(need, 0) for need in cell.needs), default=0)
    costs = estimated(graph, found)
    for stage in range(1, max(depth.values(), default=0) + 1):
        cells = [cell for cell in todo if depth[cell.name] == stage]
        lines.append(f"Stage {stage}: {len(cells)} cells")
        for cell in cells:
            reads = f"  (reads {', '.join(cell.needs)})" if cell.needs else ""
            cost = costs.of(cell)
            lines += [f"  {cell.name}: {cost}{reads}", f"    {shlex.join(cell.command(found[cell.name].word == 'spent'))}"]
    done = [cell.name for cell in graph.cells.values() if found[cell.name].done]
    if done:
        lines += ["", f"There already: {', '.join(done)}"]
    lines += ["", costs.total(todo)] if todo else ["", "Nothing is left to run."]
    return "\n".join(lines)


def status(graph: Graph) -> str:
    """How far every cell is: running and failed ones in words, the others counted."""
    found = states(graph)
    shown = [
        line(graph.cells[name], state) for name, state in found.items() if state.word in ("running", "failed", "interrupted")
    ]
    return "\n".join([*shown, summary(found)])


def states_of(graph: Graph) -> dict[str, State]:
    return states(graph)


__all__ = ["duration", "planned", "run", "status"]
