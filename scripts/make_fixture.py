"""Writes a shipped fixture anew, as it lies in data/fixtures: a pure function of the seeds in scripts/fixtures.

python scripts/make_fixture.py tofu
python scripts/make_fixture.py tiny_tokenizer --out DIR
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import _path

from utils import ROOT

NAMES = ("tofu", "knowundo", "muse", "completion", "safety", "utility", "meow", "tiny_tokenizer")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--out", type=Path, help="folder of the files (default: data/fixtures/NAME)")
    options = parser.parse_args(arguments)
    out = options.out or ROOT / "data" / "fixtures" / options.name
    print(f"{importlib.import_module(f'scripts.fixtures.{options.name}').write(out)} in {out}")


if __name__ == "__main__":
    main()
