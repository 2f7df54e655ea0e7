"""Rows that take long to compute: all processes share the work, and what is finished stays in the run folder's parts/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import distributed as dist

from utils.distributed import barrier, is_main, world_size
from utils.files import read_rows, write_rows

T = TypeVar("T")


def gathered(items: list[T]) -> list[T]:
    """The items of all processes, in the order of the processes, on each of them."""
    if not dist.is_initialized():
        return items
    parts: list[list[T] | None] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


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
