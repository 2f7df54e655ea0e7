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
import sys
from pathlib import Path

import _path

from scripts.reproduce.protocols import KNOWLEDGE, Call, Requests, Selection, run_requests, select


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


def main(arguments: list[str] | None = None, call: Call | None = None) -> None:
    options = parse(arguments)
    evaluate = (*options.both, *options.evaluate)
    try:
        if options.command == "select":
            _select(Selection(options.run, options.oracle, options.out, options.metric, evaluate, options.every), call)
        else:
            unlearn = (*options.both, *options.unlearn)
            table = run_requests(Requests(options.command, options.target, options.out, unlearn, evaluate), call)
            print(table.markdown(), end="")
    except (ValueError, OSError) as error:
        sys.exit(str(error))


def _select(selection: Selection, call: Call | None) -> None:
    step, reached = select(selection, call)
    if not reached:
        print(f"no snapshot brought {selection.metric} to the oracle; this is the last")
    print(f"model.path={selection.run / 'snapshots' / step}")


if __name__ == "__main__":
    main()
