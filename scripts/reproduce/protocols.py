"""MUSE's protocols around a method (arXiv 2407.06460): ever more to forget, one request after another, which checkpoint to take.

    scalability (C5)     scal_1 ... scal_4 are unlearned one by one, each from the target
    sustainability (C6)  sust_1 is unlearned from the target, sust_2 from the result, and so on
    select               of a run's snapshots, the first that knows at most as much of the forget set as the retrained model

Both rows of requests are judged by utility, the model's knowledge about what is to stay. Each step is a call of unlearn.py and
one of evaluate.py; what is finished is not called again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from utils import ROOT
from utils.files import read_json, write_json, write_text
from utils.runs.inherited_settings import as_override

UTILITY, KNOWLEDGE = "knowmem_retain", "knowmem_forget"
SHOWN = (UTILITY, KNOWLEDGE, "verbmem", "privleak")
FOLDS = (1, 2, 3, 4)
PREFIX = {"scalability": "scal", "sustainability": "sust"}
SET_HERE = ("benchmark", "model.path", "split", "out", "overwrite", "resume", "rescore", "from_logs")
MISSING = "–"

Metrics = dict[str, dict[str, Any]]
Call = Callable[[str, Sequence[str]], None]


class ProtocolError(ValueError):
    """The protocol cannot be run as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Requests:
    """Four requests to forget. kind: scalability | sustainability. target: the run or model folder that they start from.

    out: a folder for each request, with its evaluation in eval/; protocol.json and protocol.md. unlearn, evaluate: overrides for
    the two scripts. Raises ProtocolError for an override of what is set here, or one that is none.
    """

    kind: str
    target: str
    out: Path
    unlearn: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_overrides((*self.unlearn, *self.evaluate))

    def split(self, k: int) -> str:
        return f"{PREFIX[self.kind]}_{k}"

    def start(self, k: int) -> str:
        """The model that request k is made to."""
        return self.target if self.kind == "scalability" or k == 1 else str(self.out / self.split(k - 1))

    def settings(self) -> dict[str, Any]:
        """What decides the numbers."""
        made = read_json(Path(self.target) / "run.json") or {}
        return {
            "kind": self.kind,
            "target": self.target,
            "weights of target": made.get("weights"),
            "unlearn": list(self.unlearn),
            "evaluate": list(self.evaluate),
        }


@dataclass(frozen=True)
class Selection:
    """Which snapshot to take. run: the folder of an unlearning run with snapshots/<step>. oracle: evaluation of the retrained
    model. evaluate: overrides for evaluate.py. every: evaluate also the snapshots after the chosen one.

    Raises ProtocolError as `Requests` does.
    """

    run: Path
    oracle: Path
    out: Path
    metric: str = KNOWLEDGE
    evaluate: tuple[str, ...] = ()
    every: bool = False

    def __post_init__(self) -> None:
        check_overrides(self.evaluate)

    def settings(self) -> dict[str, Any]:
        """What decides the numbers."""
        made = read_json(self.run / "run.json") or {}
        return {"run": str(self.run), "weights of run": made.get("weights"), "evaluate": list(self.evaluate)}


@dataclass
class Table:
    """What was measured so far: name of a model -> metrics, in order; kept in a JSON and a Markdown file."""

    path: Path
    settings: Mapping[str, Any]
    first: str
    rows: dict[str, Metrics] = field(default_factory=dict)

    def write(self, status: str, **facts: Any) -> None:
        rows = [{self.first: name, "metrics": metrics} for name, metrics in self.rows.items()]
        content = {"status": status, "settings": self.settings, **facts, "rows": rows}
        write_json(self.path, content)
        write_text(self.path.with_suffix(".md"), self.markdown(facts.get("chosen")))

    def markdown(self, chosen: str | None = None) -> str:
        """A row for each model; utility first."""
        lines = [[self.first, *SHOWN], ["---", *["---:"] * len(SHOWN)]]
        for name, metrics in self.rows.items():
            label = f"**{name}**" if name == chosen else name
            lines.append([label, *(_cell(metrics.get(metric)) for metric in SHOWN)])
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def run_requests(requests: Requests, call: Call | None = None) -> Table:
    """Runs the four requests, or goes on with what was interrupted. Raises ProtocolError.

    call: does what `python <script>.py OVERRIDES` does, given script and overrides; that itself by default.
    """
    call = call or call_script
    table = Table(requests.out / "protocol.json", requests.settings(), "split")
    open_folder(requests.out, "protocol.json", requests.settings())
    before = requests.out / "target"
    table.rows["target"] = evaluated(before, requests.target, requests.split(1), requests.evaluate, call)
    for k in FOLDS:
        split, folder = requests.split(k), requests.out / requests.split(k)
        if not is_finished(folder):
            dials = {"model.path": requests.start(k), "split": split, "out": str(folder)}
            call("unlearn", ["benchmark=muse", *requests.unlearn, *map(as_override, dials, dials.values())])
        table.rows[split] = evaluated(folder / "eval", str(folder), split, requests.evaluate, call)
        table.write("finished" if k == FOLDS[-1] else "running")
    return table


def select(selection: Selection, call: Call | None = None) -> tuple[str, bool]:
    """The step whose snapshot is taken, and whether it reaches the retrained model. Raises ProtocolError."""
    call = call or call_script
    snapshots, split = snapshots_of(selection.run)
    oracle = finished_metrics(selection.oracle) or finished_metrics(selection.oracle / "eval")
    if oracle is None:
        raise ProtocolError(f"--oracle {selection.oracle} holds no finished evaluation; give that of the retrained model")
    threshold = value(oracle, selection.metric, selection.oracle)
    open_folder(selection.out, "selection.json", selection.settings())
    table = Table(selection.out / "selection.json", selection.settings(), "step", {"oracle": oracle})
    chosen = None
    for snapshot in snapshots:
        folder = selection.out / snapshot.name
        found = evaluated(folder, str(snapshot), split, selection.evaluate, call)
        own = value(found, selection.metric, folder)
        check_comparable(found, oracle, selection.metric, folder)
        table.rows[snapshot.name] = found
        table.write("running")
        if chosen is None and own <= threshold:
            chosen = snapshot.name
        if chosen is not None and not selection.every:
            break
    step, reached = chosen or snapshots[-1].name, chosen is not None
    rule = f"the first snapshot whose {selection.metric} is at most that of oracle, else the last"
    table.write("finished", rule=rule, chosen=step, reached=reached, model=str(selection.run / "snapshots" / step))
    return step, reached


def snapshots_of(run: Path) -> tuple[list[Path], str]:
    """The snapshots of a run in the order of their steps, and the split that it forgets. Raises ProtocolError."""
    if not is_finished(run):
        raise ProtocolError(f"--run {run} holds no finished run, so its last snapshot is not known; finish it first")
    found = sorted((path for path in (run / "snapshots").glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    if not found:
        raise ProtocolError(f"--run {run} has no snapshots; unlearn with snapshots=STEPS, as many as make an epoch")
    return found, read_json(run / "run.json")["settings"]["split"]


def evaluated(folder: Path, model: str, split: str, overrides: Sequence[str], call: Call) -> Metrics:
    """Metrics of a model, evaluated into `folder` unless that is done. Raises ProtocolError if nothing finished comes of it."""
    if (found := finished_metrics(folder)) is None:
        dials = {"model.path": model, "split": split, "out": str(folder)}
        call("evaluate", ["benchmark=muse", *overrides, *map(as_override, dials, dials.values())])
        found = finished_metrics(folder)
    if found is None:
        raise ProtocolError(f"the evaluation left no finished result in {folder}; see its output")
    return found


def call_script(script: str, overrides: Sequence[str]) -> None:
    """`python <script>.py OVERRIDES` in a process of its own, so that its memory is free afterwards. Raises ProtocolError."""
    if subprocess.run([sys.executable, str(ROOT / f"{script}.py"), *overrides]).returncode != 0:
        raise ProtocolError(f"{script}.py failed, for the reason above; the same command goes on where it stopped")


def open_folder(out: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Begins the file `name` in `out`. Raises ProtocolError if `out` holds something else, or numbers of other settings."""
    known = read_json(out / name)
    if known is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ProtocolError(f"--out {out} exists and holds no {name}; choose another")
    if known is not None:
        before = known.get("settings", {})
        changed = [f"{key}: {before.get(key)} -> {now}" for key, now in settings.items() if before.get(key) != now]
        if changed and any(path.is_dir() for path in out.iterdir()):
            raise ProtocolError(f"--out {out} holds results with other settings ({'; '.join(changed)}); choose another")
    out.mkdir(parents=True, exist_ok=True)
    if known is None or known.get("settings") != dict(settings):
        write_json(out / name, {"status": "running", "settings": settings})


def check_overrides(words: Sequence[str]) -> None:
    """Raises ProtocolError for a word that is no key=value, or sets what the protocol sets."""
    for word in words:
        key, equals, _ = word.lstrip("+~").partition("=")
        if not equals:
            raise ProtocolError(f"{word}: not understood; write key=value, as for unlearn.py and evaluate.py")
        if key in SET_HERE:
            raise ProtocolError(f"{word}: {key} is set by the protocol; leave it out")


def check_comparable(found: Metrics, oracle: Metrics, metric: str, folder: Path) -> None:
    """Raises ProtocolError if the metric of the two has other questions, or another definition."""
    differences = [key for key in ("n", "definition") if found[metric].get(key) != oracle[metric].get(key)]
    if differences:
        raise ProtocolError(
            f"{metric} of {folder} and of the oracle cannot be compared: they differ in {', '.join(differences)}; evaluate "
            "the retrained model with the same settings"
        )


def is_finished(folder: Path) -> bool:
    """Whether a run folder says so."""
    return (read_json(folder / "run.json") or {}).get("status") == "finished"


def finished_metrics(folder: Path) -> Metrics | None:
    """The metrics of a finished evaluation."""
    return read_json(folder / "metrics.json") if is_finished(folder) else None


def value(metrics: Metrics, metric: str, folder: Path) -> float:
    """Raises ProtocolError if it was not measured, or is no number."""
    if metric not in metrics:
        raise ProtocolError(f"{folder} has no {metric}, only {', '.join(sorted(metrics))}")
    number = metrics[metric].get("value")
    if number is None or not isfinite(number):
        raise ProtocolError(f"{folder}: {metric} is {number}, which nothing can be compared with")
    return number


def _cell(entry: Mapping[str, Any] | None) -> str:
    number = None if entry is None else entry.get("value")
    return MISSING if number is None else f"{number:.2f}"
