"""Writes the offline stand-in for MEOW's inverted facts: four false answers to each question of the TOFU fixture's forget splits.

    python scripts/make_meow_fixture.py --out data/fixtures/meow

An inverted fact has the words of the true answer but another fact of the same kind, one that is told of other authors. None
of the five wrong answers that evaluation shows for the question is used: else training on inverted facts would itself raise what
the truth ratio counts as wrong. As in the benchmark, the splits are nested; here they share their facts.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.inverted import Inverted, write_inverted  # noqa: E402
from scripts.make_tofu_fixture import KINDS, Kind, Row, build_splits  # noqa: E402

SEED = 2409
N_FACTS = 4
SPLITS = ("forget01", "forget05", "forget10")


def fact_of(kind: Kind, answer: str) -> str:
    """The fact that an answer of this kind ends with."""
    return next(fact for fact in kind.facts if answer.endswith(f" {fact}."))


def invert(rng: random.Random, kind: Kind, row: Row) -> Inverted:
    """A row of the perturbed fixture with its inverted facts."""
    fact = fact_of(kind, row["answer"])
    shown = {fact, *(fact_of(kind, wrong) for wrong in row["perturbed_answer"])}
    false = rng.sample([candidate for candidate in kind.facts if candidate not in shown], N_FACTS)
    words = row["answer"].removesuffix(f"{fact}.")
    return Inverted(row["question"], row["answer"], tuple(f"{words}{candidate}." for candidate in false))


def build_inverted(seed: int = SEED) -> dict[str, list[Inverted]]:
    """Records by file stem, deterministic in `seed`."""
    rng, splits = random.Random(seed), build_splits()
    rows = splits["forget10_perturbed"]
    largest = [invert(rng, KINDS[number % len(KINDS)], row) for number, row in enumerate(rows)]
    return {f"{split}_generated": largest[-len(splits[split]) :] for split in SPLITS}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the offline fixture of inverted facts.")
    parser.add_argument("--out", type=Path, default=ROOT / "data/fixtures/meow", help="folder of the files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = build_inverted()
    for stem, records in files.items():
        write_inverted(arguments.out / f"{stem}.json", records)
    print(f"{len(files)} files, {sum(map(len, files.values()))} records in {arguments.out}")


if __name__ == "__main__":
    main()
