"""Adds and subtracts task vectors, slice by slice from disk to disk: memory depends on no model's size, and no GPU is needed.

    python scripts/combine_weights.py --base runs/target --minus 1 runs/reinforced --out runs/negated
    python scripts/combine_weights.py --base DIR --plus 0.5 DIR_A DIR_B --minus 2 DIR_C --dtype bfloat16 --out DIR

    theta_out = theta_base + sum of C * (theta_FINETUNED - theta_ORIGIN), subtracted with --minus

If the one term is --minus and FINETUNED an adapter on the base, the result is an adapter too: the same one with the opposite
sign. Run folders stand for the model in them; evaluate the result with model.path=DIR.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import _path

DTYPES = ("float64", "float32", "float16", "bfloat16")


class Term(NamedTuple):
    """What follows --plus or --minus. Raises ValueError if it is not C FINETUNED [ORIGIN]."""

    coefficient: float
    finetuned: Path
    origin: Path | None

    @classmethod
    def parse(cls, words: list[str], flag: str) -> Term:
        try:
            coefficient = float(words[0])
        except ValueError:
            raise ValueError(f"{flag} {' '.join(words)}: {words[0]} is no number; write {flag} C FINETUNED [ORIGIN]") from None
        if len(words) not in (2, 3):
            raise ValueError(f"{flag} {' '.join(words)}: write {flag} C FINETUNED [ORIGIN], one or two folders after the number")
        if not coefficient > 0:
            raise ValueError(f"{flag} {words[0]}: the number must be above 0; --plus adds and --minus subtracts")
        return cls(coefficient, Path(words[1]), Path(words[2]) if len(words) == 3 else None)


def combine_weights(options: argparse.Namespace) -> None:
    """Writes the model or adapter that the options ask for. Raises ValueError for what cannot be done."""
    plus = [Term.parse(words, "--plus") for words in options.plus]
    minus = [Term.parse(words, "--minus") for words in options.minus]
    if not plus + minus:
        raise ValueError("nothing to add; give --plus C FINETUNED [ORIGIN] or --minus C FINETUNED [ORIGIN]")
    if options.out.exists() and not options.overwrite:
        raise ValueError(f"--out {options.out} exists; choose another folder, or replace the model in it with --overwrite")

    from utils.weights.arithmetic import TaskVector, combine, negate
    from utils.weights.safetensors_stream import FLOATS  # slow imports: what can be refused without them was refused above

    dtype = next((known for known in FLOATS.values() if str(known) == f"torch.{options.dtype}"), None)
    if not plus and len(minus) == 1 and minus[0].origin is None:
        negate(options.base, minus[0].finetuned, options.out, minus[0].coefficient, dtype)
        return
    signed = [(1, term) for term in plus] + [(-1, term) for term in minus]
    terms = [TaskVector(sign * term.coefficient, term.finetuned, term.origin or options.base) for sign, term in signed]
    combine(options.base, terms, options.out, dtype)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    term = {"action": "append", "nargs": "+", "default": [], "metavar": ("C", "DIR")}
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="model to start from; gives config and tokenizer")
    parser.add_argument("--plus", **term, help="C FINETUNED [ORIGIN]; ORIGIN is the base unless given; repeatable")
    parser.add_argument("--minus", **term, help="the same, subtracted")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; it appears when it is whole")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the result (default: that of the base)")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that --out holds")
    options = parser.parse_args(arguments)
    try:
        combine_weights(options)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(options.out)


if __name__ == "__main__":
    main()
