"""Rows that take long to compute: all processes share the work, and what is finished stays in the run folder's parts/."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from utils import alive
from utils.distributed import barrier, by_main, gathered, is_main, rank, world_size
from utils.files import read_json, read_rows, write_json, write_rows

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 60.0  # seconds: for so long network file systems may remember that a file was not there


def kept_rows(path: Path, compute: Callable[[], list[dict]]) -> list[dict]:
    """The rows in the file `path`; without such a file, those that `compute` gives, written there.

    Called on every process; `compute` gives all rows on each of them. An interrupted evaluation finds what was finished.
    """
    if not by_main(path.is_file):
        rows = compute()
        if is_main():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(path, rows)
        barrier()
    return read_rows(path)


def blind_to(path: Path) -> list[str]:
    """The processes that do not see a file that the main process puts beside `path` for a while; none if it cannot put it there.

    path: what the file's name begins with.
    """
    if world_size() == 1:
        return []
    sign = None
    with suppress(OSError):
        sign = alive.post(path.with_name(f"{path.name}.{uuid4().hex}")) if is_main() else None
    try:
        name = by_main(lambda: sign and sign.path.name)
        ends = time.monotonic() + PATIENCE
        while not (seen := name is None or path.with_name(name).exists()) and time.monotonic() < ends:
            time.sleep(0.1)
        return gathered([] if seen else [f"process {rank()} on {socket.gethostname()}"])
    finally:
        if sign is not None:
            sign.remove()


def shared_out(items: Sequence[T], compute: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """compute(items), one result for each, in order; every process computes a share, and all of them get all results."""
    mine = range(rank(), len(items), world_size())
    results = compute([items[place] for place in mine])
    by_place = dict(gathered(list(zip(mine, results, strict=True))))
    return [by_place[place] for place in range(len(items))]


def extended_rows(
    rows: Sequence[dict[str, Any]],
    wanted: Callable[[dict[str, Any]], bool],
    path: Path,
    compute: Callable[[Sequence[dict[str, Any]]], Sequence[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """All rows, with the fields that `compute` gives for each of those that are `wanted`: shared out, and kept at `path`.

    A row is found again by its `task` and `index`.
    """
    chosen = [row for row in rows if wanted(row)]

    def computed() -> list[dict[str, Any]]:
        more = shared_out(chosen, compute)
        return [{"task": row["task"], "index": row["index"], **fields} for row, fields in zip(chosen, more, strict=True)]

    known = {(row["task"], row["index"]): row for row in kept_rows(path, computed)}
    return [{**row, **known[row["task"], row["index"]]} if wanted(row) else row for row in rows]


def kept_json(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the JSON file `path` holds; without such a file, what `compute` gives on every process, written there."""
    kept = by_main(lambda: read_json(path))
    if kept is not None:
        return kept
    made = compute()
    if is_main():
        write_json(path, made)
    barrier()
    return made
