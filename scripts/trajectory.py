"""Evaluates every snapshot of a run and draws its metrics against the optimizer step.

    python unlearn.py method=npo model=tiny model.path=runs/target benchmark=tofu split=forget10 snapshots=5 out=runs/npo
    python scripts/trajectory.py runs/npo oracle=runs/retain90
    python scripts/trajectory.py runs/npo runs/flat oracle=none --metrics forget_prob,retain_prob --out runs/compared

Besides the snapshots: the model that the run started from, as step 0, and the one that it ended with. Benchmark, split, model,
data_root and compat are the run's own; key=value says otherwise, and sets any other dial of evaluate.py. What is finished with
the same settings is not evaluated again, so the same command goes on after an interruption. Works under torchrun too.

RUN/trajectory/<step>/                  an evaluation each (RUN/trajectory-<benchmark>/ on another benchmark than the run's)
DIR/trajectory.json, .md, .html         all of them; DIR is --out, or RUN/trajectory for a single run
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import _path


def write_trajectory(
    runs: Sequence[Path], overrides: Sequence[str], metrics: Sequence[str], out: Path | None, command: str
) -> tuple[list[Path], list[str]]:
    """Evaluates what is missing and writes the three files to `out`; returns their paths, and what failed. Raises ValueError."""
    from utils.distributed import is_main  # slow imports: a misspelt name was refused without them
    from utils.files import write_json, write_text
    from utils.report.trajectory import follow, plan
    from utils.report.trajectory_page import columns, page, to_json, to_markdown
    from utils.runs.series import script_main

    trajectories = plan(runs, overrides)
    follow(trajectories, script_main("evaluate"), metrics)
    folder = out or trajectories[0].folder
    paths = [folder / f"trajectory.{ending}" for ending in ("json", "md", "html")]
    if is_main():
        shown = columns(trajectories, metrics)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(paths[0], to_json(trajectories, command))
        write_text(paths[1], to_markdown(trajectories, shown, command))
        write_text(paths[2], page(trajectories, shown, command))
    return paths, [f"{trajectory.run}, {words}" for trajectory in trajectories for words in trajectory.failed]


def sorted_words(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Run folders and overrides, in any order. Raises ValueError for a word that is neither."""
    runs = [Path(word) for word in words if Path(word).is_dir()]
    overrides = [word for word in words if not Path(word).is_dir()]
    for word in overrides:
        if "=" not in word:
            raise ValueError(f"{word}: there is no such run folder; give run folders, and settings of evaluate.py as key=value")
    if not runs:
        raise ValueError("there is no run to follow; give the folder of a run that was trained with snapshots=N")
    return runs, overrides


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="RUN or KEY=VALUE", help="run folders, and settings of evaluate.py")
    parser.add_argument(
        "--metrics", default="", metavar="A,B,C", help="names in metrics.json (default: those that a report shows)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the three files go; needed for several runs")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_intermixed_args(arguments)

    from utils.runs.cli import check_command_line, errors_in_one_sentence

    with errors_in_one_sentence():
        runs, overrides = sorted_words(options.words)
        if len(runs) > 1 and options.out is None:
            raise ValueError(f"{len(runs)} runs: say with --out DIR where the page that compares them goes")
        check_command_line("evaluate", overrides)
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        metrics = [name for name in options.metrics.split(",") if name]
        command = shlex.join(["python", "scripts/trajectory.py", *arguments])
        paths, failed = write_trajectory(runs, overrides, metrics, options.out, command)
    for path in paths:
        print(path)
    if failed:
        sys.exit(f"without numbers, for the reasons above: {'; '.join(failed)}; the same command tries them again")


if __name__ == "__main__":
    main()
