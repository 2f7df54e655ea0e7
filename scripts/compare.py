"""Compares two evaluated runs: difference, 95 % interval and p-value of every metric that both have.

    python scripts/compare.py runs/npo runs/flat
    python scripts/compare.py runs/npo runs/flat --metrics forget_quality model_utility --out comparisons/npo_flat

A run is the folder of a training with its evaluation in eval/, or an evaluation's own folder. Both must have been asked the same
questions; seeds, methods and models may differ. The table is printed; only with --out are files written:

OUT/comparison.md       the table, how it was computed, and what else differs between the two
OUT/comparison.json     the same with all digits
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _path

from utils.files import write_json, write_text
from utils.report.comparison import Comparison, compare
from utils.runs.cli import errors_in_one_sentence


def write(comparison: Comparison, out: Path) -> None:
    """Writes comparison.json and comparison.md to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", comparison.to_json())
    write_text(out / "comparison.md", comparison.to_markdown())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="run A and run B; differences are B - A")
    parser.add_argument("--metrics", nargs="+", default=(), metavar="NAME", help="names in metrics.json (default: all)")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the resamples (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the two files go (default: nothing is written)")
    options = parser.parse_args(arguments)
    with errors_in_one_sentence():
        if options.out is not None and options.out.exists() and not options.out.is_dir():
            raise ValueError(f"--out {options.out} is a file; name a folder")
        comparison = compare(*options.runs, options.metrics, options.resamples, options.seed)
        if options.out is not None:
            write(comparison, options.out)
    print(comparison.to_markdown(), end="")


if __name__ == "__main__":
    main()
