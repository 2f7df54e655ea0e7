"""What an evaluation saved, and run.json's word for it: rows and hash of each file. What was damaged or emptied since is an error
instead of fewer numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
from pyarrow import ArrowException

from utils.files import read_json
from utils.fingerprint import file_hash

SCORES, GENERATIONS, ORACLE = "scores.parquet", "generations.jsonl", "oracle.parquet"
NULLS, BEFORE = "null", "before"  # folders: oracles of other seeds, the model before unlearning


class ResultsError(ValueError):
    """A file of saved scores or answers is not what was saved; the message names it and says what to do."""


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> {rows, hash} of the files with scores and answers in an evaluation's folder, for run.json. Raises ResultsError."""
    return {name: {"rows": _rows(folder / name), "hash": file_hash(folder / name)} for name in saved_files(folder)}


def saved_files(folder: Path) -> list[str]:
    """The files with scores and answers in an evaluation's folder, by their path in it."""
    names = (SCORES, GENERATIONS, ORACLE, f"{BEFORE}/{SCORES}", f"{BEFORE}/{GENERATIONS}")
    nulls = sorted((folder / NULLS).glob("*.parquet"))
    return [*(name for name in names if (folder / name).is_file()), *(str(path.relative_to(folder)) for path in nulls)]


def check(folder: Path, *names: str) -> None:
    """Raises ResultsError if a file (by default any) that run.json of an evaluation describes is gone or not as it was.

    Evaluations from before run.json did so are taken as they are.
    """
    described = (read_json(folder / "run.json") or {}).get("results", {})
    for name, known in described.items():
        path = folder / name
        if names and name not in names:
            continue
        if not path.is_file():
            raise ResultsError(f"{path} is missing, and run.json names it; {_remedy(folder)}")
        if file_hash(path) != known["hash"]:
            now = _rows_if_whole(path)
            seen = f"{now} of {known['rows']} rows are left" if now != known["rows"] else "other content than was saved"
            raise ResultsError(f"{path} is damaged ({seen}); {_remedy(folder)}")


def read_table(path: Path) -> pd.DataFrame:
    """A score table. Raises ResultsError if it is damaged."""
    try:
        return pd.read_parquet(path)
    except (ArrowException, OSError) as error:
        raise ResultsError(f"{path} is damaged ({str(error).splitlines()[0]}); delete it, and it is made again") from error


def _rows(path: Path) -> int:
    if path.suffix == ".jsonl":
        return path.read_bytes().count(b"\n")
    try:
        return pyarrow.parquet.read_metadata(path).num_rows
    except (ArrowException, OSError) as error:
        raise ResultsError(f"{path} is damaged ({str(error).splitlines()[0]}); delete it, and it is made again") from error


def _rows_if_whole(path: Path) -> int:
    try:
        return _rows(path)
    except ResultsError:
        return 0


def _remedy(folder: Path) -> str:
    return f"run the evaluation again, with overwrite=true out={folder}"
