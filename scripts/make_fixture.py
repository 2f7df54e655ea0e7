"""Writes a shipped fixture anew, as it lies in data/fixtures: a pure function of the seeds in scripts/fixtures.

python scripts/make_fixture.py tofu
python scripts/make_fixture.py tiny_tokenizer --out DIR
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import _path

from scripts.fixtures.files import write_files
from utils import ROOT

FILES = ("tofu", "knowundo", "muse", "completion", "safety", "utility", "own")  # modules that give the files' contents
OTHERS = ("meow", "tiny_tokenizer")  # modules that write by themselves


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*FILES, *OTHERS))
    parser.add_argument("--out", type=Path, help="folder of the files (default: data/fixtures/NAME)")
    options = parser.parse_args(arguments)
    out = options.out or ROOT / "data" / "fixtures" / options.name
    module = importlib.import_module(f"scripts.fixtures.{options.name}")
    print(f"{write_files(module.build_files(), out) if options.name in FILES else module.write(out)} in {out}")


if __name__ == "__main__":
    main()
