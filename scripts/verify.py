"""Computes every number of a study again from the scores that were kept, and says what differs.

    python scripts/verify.py tofu_tiny
    python scripts/verify.py tofu_tiny results=docs/results       what is committed, in a fresh clone
    python scripts/verify.py tofu_tiny full=true                  also from the weights, as far as they are still there

Other settings of the study as for scripts/study.py. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import _path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="NAME or KEY=VALUE", help="a study, and what its file does not say")
    words = parser.parse_args(arguments).words

    from utils.runs.cli import errors_in_one_sentence

    with errors_in_one_sentence():
        from utils.studies.command import verify  # slow imports: --help does without

        sys.exit(verify(words))


if __name__ == "__main__":
    main()
