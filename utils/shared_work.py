"""Rows that take long to compute: all processes share the work, and what is finished stays in the run folder's parts/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.distributed import barrier, is_main
from utils.files import read_json, read_rows, write_json, write_rows


def kept_rows(path: Path, compute: Callable[[], list[dict]]) -> list[dict]:
    """The rows in the file `path`; without such a file, those that `compute` gives, written there.

    Called on every process; `compute` gives all rows on each of them. An interrupted evaluation finds what was finished.
    """
    done = path.is_file()
    barrier()  # no process may look after another has begun to write
    if not done:
        rows = compute()
        if is_main():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(path, rows)
        barrier()
    return read_rows(path)


def kept_json(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the JSON file `path` holds; without such a file, what `compute` gives on every process, written there."""
    kept = read_json(path)
    if kept is not None:
        return kept
    made = compute()
    barrier()  # no process may look after another has begun to write
    if is_main():
        write_json(path, made)
    barrier()
    return made
