"""What `python scripts/study.py NAME KEY=VALUE ...` does."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.checks import did_you_mean_or_all, flag, path
from utils.files import write_text
from utils.interruption import Interrupted
from utils.runs.cli import parse_overrides
from utils.studies.carrying import export, merge
from utils.studies.cells import POOL, Cell
from utils.studies.conduct import conduct, line, summary
from utils.studies.estimate import estimated
from utils.studies.launch import Launch
from utils.studies.outcome import write_outcome
from utils.studies.planning import Plan
from utils.studies.runner import BEHIND, folder_of, stop
from utils.studies.states import State, needed
from utils.studies.study import Study, read_study, studies
from utils.studies.verifying import differences

WHOSE = "study"  # file in a launch's folder that names it
HOW_IT_IS_RUN = ("launcher", "launch", "processes", "parallel", "device", "keep")
SWITCHES = ("plan", "status", "stop", "table")
FILES = ("export", "merge")
RESULTS = Path("runs/studies")


@dataclass(frozen=True)
class Asked:
    """A command line, read. name: None for all studies. pool: of the cells; results: where <study>/ with its table goes."""

    name: str | None
    overrides: Sequence[str]
    switches: Mapping[str, bool]
    pool: Path
    results: Path
    files: Mapping[str, Sequence[Path]]

    @classmethod
    def of(cls, words: Sequence[str]) -> Asked:
        """Raises ValueError for what is neither a study nor key=value."""
        names = [word for word in words if "=" not in word]
        if len(names) > 1:
            raise ValueError(f"{' '.join(names)}: one study at a time")
        if names and names[0] not in studies():
            raise ValueError(f"{names[0]}: there is no such study{did_you_mean_or_all(names[0], studies())}")
        switches, folders, rest = dict.fromkeys(SWITCHES, False), {"pool": POOL, "results": RESULTS}, []
        files: dict[str, Sequence[Path]] = {}
        for override in parse_overrides([word for word in words if "=" in word]):
            key, value = override.key_or_group, override.value()
            if key in SWITCHES:
                flag(key, value)
                switches[key] = value
            elif key in folders:
                path(key, value)
                folders[key] = Path(value)
            elif key in FILES:
                several = value if isinstance(value, list) and key == "merge" else [value]
                for one in several:
                    path(key, one)
                files[key] = [Path(one) for one in several]
            else:
                rest.append(override.input_line)
        asked = [*(switch for switch, on in switches.items() if on), *files]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)}: one at a time")
        return cls(names[0] if names else None, rest, switches, **folders, files=files)

    @property
    def as_filed(self) -> bool:
        """Whether all cells of the file are meant: nothing on the command line says otherwise but how they are run."""
        return {one.key_or_group.partition(".")[0] for one in parse_overrides(self.overrides)} <= {*HOW_IT_IS_RUN}

    def plan(self, study: Study) -> Plan:
        """A study as far as it is known now."""
        return Plan.of(study, self.pool, self.results)


def run(words: Sequence[str]) -> int:
    """Does what the words say; the exit code. Raises ValueError for what cannot be done."""
    asked = Asked.of(words)
    if asked.name is None:
        return _listed(asked)
    study = read_study(asked.name, asked.overrides)
    if asked.switches["stop"]:
        return _stop(study, asked.pool)
    processes = max([study.processes, *(entry.processes or 1 for entry in study.entries.values())])
    launch = Launch(study.launcher, asked.pool, dict(study.launch), study.parallel, processes)
    plan = asked.plan(study)
    if asked.switches["plan"]:
        print(planned(plan))
    elif asked.switches["status"]:
        print(status(plan))
    elif "export" in asked.files:
        print(f"{export(plan, *asked.files['export'])} evaluations in {asked.files['export'][0]}")
    elif "merge" in asked.files:
        print(f"{merge(plan, asked.files['merge'])} evaluations are new here; {summary(plan.states)}")
    elif asked.switches["table"]:
        if not _written(plan, asked):
            raise ValueError(f"study {study.name}: nothing of it is done yet; run it first")
    else:
        launch.check()
        return _conducted(study, asked, launch)
    return 0


def _listed(asked: Asked) -> int:
    """All studies with their state; one that cannot be read says why."""
    meant = [*(key for key, on in asked.switches.items() if on and key not in ("plan", "status")), *asked.files]
    if meant:
        raise ValueError(f"{' and '.join(meant)}: of which study? Write python scripts/study.py NAME {meant[0]}=...")
    code = 0
    for name in studies():
        try:
            plan = asked.plan(read_study(name, asked.overrides))
            print(f"{name}: {plan.study.title}: {summary(plan.states)}", flush=True)
        except ValueError as error:
            code = 1
            print(error if str(error).startswith("study ") else f"study {name}: {error}", flush=True)
    return code


def verify(words: Sequence[str]) -> int:
    """Computes the numbers of a study again (scripts/verify.py); the exit code. Raises ValueError for what cannot be done."""
    full = [word for word in words if word.startswith("full=")]
    asked = Asked.of([word for word in words if word not in full])
    if asked.name is None or any(asked.switches.values()) or asked.files:
        raise ValueError("name a study, and settings of it: python scripts/verify.py NAME")
    for override in parse_overrides(full):
        flag("full", override.value())
    found = list(
        differences(
            asked.plan(read_study(asked.name, asked.overrides)), asked.results / asked.name, full=full[-1:] == ["full=true"]
        )
    )
    print(*found, sep="\n", end="\n" if found else "")
    print("every number follows from what is kept" if not found else f"{len(found)} differences")
    return 1 if found else 0


def _conducted(study: Study, asked: Asked, launch: Launch) -> int:
    launch.folder.mkdir(parents=True, exist_ok=True)
    write_text(launch.folder / WHOSE, study.name)

    def plan() -> Plan:  # of the study as it was read: its file may change meanwhile
        made = asked.plan(study)
        made.keep(asked.as_filed)
        return made

    code = 0
    try:
        conduct(plan, launch)
        launch.tidy()
    except Interrupted as stopped:
        code = stopped.code
    last = plan()
    _written(last, asked)
    if code:
        print(f"stopped; {summary(last.states)}. The same command goes on", file=sys.stderr)
        return code
    print(summary(last.states))
    return 0 if not last.waiting and all(last.states[cell.name].done for cell in last.graph.evaluations()) else 1


def _written(plan: Plan, asked: Asked) -> bool:
    plan.keep(asked.as_filed)
    paths = write_outcome(plan, asked.results / plan.study.name)
    for written in paths:
        print(written)
    return bool(paths)


def _stop(study: Study, pool: Path) -> int:
    """Stops every start of a study that is not over, from whatever shell."""
    begun = [
        path.parent.name for path in folder_of(pool / BEHIND, "*").parent.glob(f"*/{WHOSE}") if path.read_text() == study.name
    ]
    if not begun:
        raise ValueError(f"study {study.name}: does not run in pool={pool}; nothing to stop")
    for launch in begun:
        stop(pool / BEHIND, launch)
    print("asked to stop: what runs writes its checkpoint, nothing new begins")
    return 0


def planned(plan: Plan) -> str:
    """The plan in words: stages of commands, what exists, and what is still to be paid."""
    graph, found = plan.graph, plan.states
    todo, costs = needed(graph, found), estimated(graph, found)
    lines = [f"{plan.study.title} ({plan.study.name}): {summary(found)}"]
    stages: dict[str, int] = {}
    for cell in todo:
        stages[cell.name] = 1 + max((stages.get(need, 0) for need in cell.needs), default=0)
    by_stage = [[cell for cell in todo if stages[cell.name] == stage] for stage in sorted({*stages.values()})]
    for stage, cells in enumerate(by_stage, start=1):
        lines += ["", f"Stage {stage}: {len(cells)} cells"]
        for cell in cells:
            reads = f", reads {', '.join(cell.needs)}" if cell.needs else ""
            lines += [f"  {cell.name}: {costs.of(cell)}{reads}", f"    {_command(cell, found[cell.name])}"]
    if plan.waiting:
        lines += ["", f"Then, with the settings that their trials choose: {', '.join(plan.waiting)}, under each seed."]
    done = [name for name, state in found.items() if state.done]
    if done:
        lines += ["", f"There already: {', '.join(done)}"]
    lines += ["", costs.total(by_stage) if todo else "Nothing is left to run."]
    return "\n".join(lines)


def _command(cell: Cell, state: State) -> str:
    return shlex.join(cell.command(again=state.word == "spent"))


def status(plan: Plan) -> str:
    """How far every cell is: running and failed ones in words, the others counted."""
    cells, told = plan.graph.cells, ("running", "failed", "interrupted")
    lines = [line(cells[name], state) for name, state in plan.states.items() if state.word in told]
    return "\n".join([*lines, summary(plan.states)])
