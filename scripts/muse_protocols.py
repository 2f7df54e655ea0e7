r"""MUSE's protocols around a method: scalability, sustainability, and the choice of a checkpoint (arXiv 2407.06460, C5 and C6).

    python scripts/muse_protocols.py scalability --target runs/target --out runs/scal --both model=tiny \
        --unlearn method=npo_rt epochs=10 --evaluate oracle=runs/retrained
    python scripts/muse_protocols.py sustainability --target runs/target --out runs/sust --both model=tiny \
        --unlearn method=npo_rt epochs=10 --evaluate oracle=runs/retrained
    python scripts/muse_protocols.py select --run runs/npo_rt --oracle runs/retrained/eval --out runs/npo_rt_selected \
        --both model=tiny --evaluate oracle=runs/retrained

scalability unlearns scal_1 ... scal_4, each from the target; sustainability sust_1 from the target, sust_2 from the result, and
so on. The target must know them all: finetune.py split=scal_4+retain2. Dials of --both go to unlearn.py and evaluate.py.

select takes, of the snapshots of a run (unlearn.py snapshots=STEPS), the first whose knowledge of the forget set is at most that
of the retrained model, else the last: the rule of MUSE's released code, which looks at every epoch (the paper words it by the
utility). scripts/search_coefficient.py does the same for the coefficient of a task vector or of WHP.

OUT/protocol.json, protocol.md      a row for the target and for every request
OUT/<split>/, OUT/<split>/eval      the runs, to be gone on with when interrupted; finished ones are skipped
OUT/selection.json, selection.md    a row for every snapshot that was looked at; OUT/<step>/ is its evaluation
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _path

from utils.files import write_json, write_text
from utils.report import markdown
from utils.runs.cli import as_override, errors_in_one_sentence, refuse_overrides
from utils.runs.series import Call, Evaluation, Metrics, call_script, finished_run, named_models, open_series, snapshots

UTILITY, KNOWLEDGE = "knowmem_retain", "knowmem_forget"
SHOWN = (UTILITY, KNOWLEDGE, "verbmem", "privleak")
FOLDS = (1, 2, 3, 4)
PREFIX = {"scalability": "scal", "sustainability": "sust"}
SET_HERE = ("benchmark", "model.path", "split", "out", "overwrite", "resume", "rescore", "from_logs")
RESULTS = "*/"  # every folder within that of a protocol


@dataclass(frozen=True)
class Requests:
    """Four requests to forget. kind: scalability | sustainability. target: the run or model folder that they start from.

    out: a folder for each request, with its evaluation in eval/; protocol.json and protocol.md. unlearn, evaluate: overrides for
    the two scripts. Raises ValueError for an override of what is set here, or one that is none.
    """

    kind: str
    target: str
    out: Path
    unlearn: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse_overrides((*self.unlearn, *self.evaluate), SET_HERE)

    def split(self, k: int) -> str:
        return f"{PREFIX[self.kind]}_{k}"

    def start(self, k: int) -> str:
        """The model that request k is made to."""
        return self.target if self.kind == "scalability" or k == 1 else str(self.out / self.split(k - 1))

    def settings(self) -> dict[str, Any]:
        """What decides the numbers."""
        model = named_models(target=self.target)
        return {"kind": self.kind, **model, "unlearn": list(self.unlearn), "evaluate": list(self.evaluate)}


@dataclass
class Table:
    """What was measured so far: name of a model -> metrics, in order; kept in a JSON and a Markdown file."""

    path: Path
    settings: Mapping[str, Any]
    first: str
    rows: dict[str, Metrics] = field(default_factory=dict)

    def write(self, status: str, **facts: Any) -> None:
        rows = [{self.first: name, "metrics": metrics} for name, metrics in self.rows.items()]
        write_json(self.path, {"status": status, "settings": self.settings, **facts, "rows": rows})
        write_text(self.path.with_suffix(".md"), self.markdown(facts.get("chosen")))

    def markdown(self, chosen: str | None = None) -> str:
        """A row for each model; utility first."""
        rows = [
            [markdown.bold(name) if name == chosen else name, *(markdown.number(metrics.get(key), ".2f") for key in SHOWN)]
            for name, metrics in self.rows.items()
        ]
        return markdown.table([self.first, *SHOWN], rows) + "\n"


def run_requests(requests: Requests, call: Call = call_script) -> Table:
    """Runs the four requests, or goes on with what was interrupted. Raises ValueError."""
    settings = requests.settings()
    open_series(requests.out, "protocol.json", settings, RESULTS)
    table = Table(requests.out / "protocol.json", settings, "split")

    def evaluated(folder: Path, model: str, split: str) -> Metrics:
        return Evaluation.made(folder, _words(model, split, requests.evaluate), call).metrics

    table.rows["target"] = evaluated(requests.out / "target", requests.target, requests.split(1))
    for k in FOLDS:
        split, folder = requests.split(k), requests.out / requests.split(k)
        if finished_run(folder) is None:
            call("unlearn", [*_words(requests.start(k), split, requests.unlearn), as_override("out", str(folder))])
        table.rows[split] = evaluated(folder / "eval", str(folder), split)
        table.write("finished" if k == FOLDS[-1] else "running")
    return table


def select(
    run: Path, oracle_folder: Path, out: Path, metric: str, evaluate: Sequence[str], every: bool, call: Call = call_script
) -> tuple[str, bool]:
    """The step whose snapshot is taken, and whether it reaches the retrained model. Raises ValueError.

    run: the folder of an unlearning run with snapshots/<step>. oracle_folder: evaluation of the retrained model. evaluate:
    overrides for evaluate.py. every: evaluate also the snapshots after the chosen one.
    """
    refuse_overrides(evaluate, SET_HERE)
    steps, split = snapshots_of(run)
    oracle, settings = Evaluation.of_oracle(oracle_folder), {**named_models(run=run), "evaluate": list(evaluate)}
    threshold = oracle.value(metric)
    open_series(out, "selection.json", settings, RESULTS)
    table = Table(out / "selection.json", settings, "step", {"oracle": oracle.metrics})
    chosen = None
    for snapshot in steps:
        evaluation = Evaluation.made(out / snapshot.name, _words(str(snapshot), split, evaluate), call)
        value = evaluation.compared(oracle, metric)
        table.rows[snapshot.name] = evaluation.metrics
        table.write("running")
        if chosen is None and value <= threshold:
            chosen = snapshot.name
        if chosen is not None and not every:
            break
    step, reached = chosen or steps[-1].name, chosen is not None
    rule = f"the first snapshot whose {metric} is at most that of oracle, else the last"
    table.write("finished", rule=rule, chosen=step, reached=reached, model=str(run / "snapshots" / step))
    return step, reached


def snapshots_of(run: Path) -> tuple[list[Path], str]:
    """The snapshots of a run in the order of their steps, and the split that it forgets. Raises ValueError."""
    capsule = finished_run(run)
    if capsule is None:
        raise ValueError(f"--run {run} holds no finished run, so its last snapshot is not known; finish it first")
    steps = list(snapshots(run).values())
    if not steps:
        raise ValueError(f"--run {run} has no snapshots; unlearn with snapshots=STEPS, as many as make an epoch")
    return steps, capsule["settings"]["split"]


def _words(model: str, split: str, overrides: Sequence[str]) -> list[str]:
    """Overrides of either script but for `out`."""
    return ["benchmark=muse", *overrides, as_override("model.path", model), as_override("split", split)]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("scalability", "sustainability"):
        command = commands.add_parser(name, help=f"C{5 if name == 'scalability' else 6} of MUSE")
        command.add_argument("--target", required=True, metavar="DIR", help="model that knows everything that is to be forgotten")
        command.add_argument("--unlearn", nargs="*", default=[], metavar="KEY=VALUE", help="settings of unlearn.py")
        _common(command)
    command = commands.add_parser("select", help="which snapshot of a run to take")
    command.add_argument("--run", type=Path, required=True, metavar="DIR", help="unlearning run with snapshots")
    command.add_argument("--oracle", type=Path, required=True, metavar="DIR", help="evaluation of the retrained model")
    command.add_argument("--metric", default=KNOWLEDGE, metavar="NAME", help=f"lower is more forgotten (default: {KNOWLEDGE})")
    command.add_argument("--every", action="store_true", help="evaluate also the snapshots after the chosen one")
    _common(command)
    return parser.parse_args(arguments)


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for runs, evaluations and the table")
    command.add_argument("--both", nargs="*", default=[], metavar="KEY=VALUE", help="settings of both scripts")
    command.add_argument("--evaluate", nargs="*", default=[], metavar="KEY=VALUE", help="settings of evaluate.py")


def main(arguments: list[str] | None = None, call: Call = call_script) -> None:
    options = parse(arguments)
    evaluate = (*options.both, *options.evaluate)
    with errors_in_one_sentence():
        if options.command != "select":
            unlearn = (*options.both, *options.unlearn)
            requests = Requests(options.command, options.target, options.out, unlearn, evaluate)
            print(run_requests(requests, call).markdown(), end="")
            return
        step, reached = select(options.run, options.oracle, options.out, options.metric, evaluate, options.every, call)
    if not reached:
        print(f"no snapshot brought {options.metric} to the oracle; this is the last")
    print(f"model.path={options.run / 'snapshots' / step}")


if __name__ == "__main__":
    main()
