"""Makes a table: the models, unlearnings and evaluations that a study needs, stage after stage, and what they show.

    python scripts/study.py                                  all studies, and how far they are
    python scripts/study.py tofu_tiny plan=true              what would be run: commands, time, GPU hours, disk
    python scripts/study.py tofu_tiny                        run what is missing, then write the table
    python scripts/study.py tofu_tiny launcher=joblib parallel=2
    python scripts/study.py tofu_tiny status=true            from another shell: how far it is
    python scripts/study.py tofu_tiny stop=true              from another shell: ask it to end; the same command goes on
    python scripts/study.py tofu_tiny table=true             write the table of what is done
    python scripts/study.py tofu_tiny export=cells.tar       what is done, for another machine, which takes it over with
    python scripts/study.py tofu_tiny merge=cells.tar

Studies are files of config/study; key=value says otherwise than a file: seeds=[0,1], common.model=phi-1.5, rows.npo.lr=1e-5,
launcher=submitit_slurm launch.partition=gpu. Each cell of a study is an ordinary command with a run folder in `pool`
(default: runs/cells), which all studies share; what is finished is not run again. Tables go to `results`/NAME (default:
runs/studies), with the scores behind them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import _path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="NAME or KEY=VALUE", help="a study, and what its file does not say")
    words = parser.parse_args(arguments).words

    from utils.runs.cli import errors_in_one_sentence

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with errors_in_one_sentence():
        from utils.studies.command import run  # slow imports: --help does without

        sys.exit(run(words))


if __name__ == "__main__":
    main()
