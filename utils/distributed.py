"""The few questions that the rest of the code asks about processes; all answers hold without a process group too."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")

COMPUTING = timedelta(minutes=30)  # how far apart processes may be that compute together; what trainers allow by default
WAITING = timedelta(days=30)  # for what one process does alone; if that dies, the launcher ends the others

_waiting: dist.ProcessGroup | None = None  # for words and files: needs no device, and has patience


def launched() -> bool:
    """Whether torchrun (or a launcher with the same variables) started this process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def start() -> None:
    """Joins the process group if the script was launched by torchrun and no group exists yet; leaves it when Python ends."""
    global _waiting
    if launched() and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=COMPUTING)
        _waiting = dist.new_group(backend="gloo", timeout=WAITING)
        # Threads of a group that outlive the interpreter now and then abort a process whose work is done.
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True on the process that writes files and prints."""
    return rank() == 0


def device() -> torch.device:
    """Where models of this process compute."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def barrier() -> None:
    """Waits for all processes, however long one of them judges, downloads, hashes or merges alone."""
    if dist.is_initialized():
        dist.barrier(_waiting)


def highest(number: int, device: torch.device) -> int:
    """The highest number that any process says, on every process: what one of them was told, all must do."""
    if not dist.is_initialized():
        return number
    said = torch.tensor([number], device=device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return int(said.item())


def from_main(value: T) -> T:
    """The main process's object, on every process: what to do must not depend on a clock or on the files that a process sees."""
    if not dist.is_initialized():
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, group=_waiting)
    return said[0]


def by_main(do: Callable[[], T]) -> T:
    """What the main process makes of it, on every process: what it finds in files decides for all which way they go."""
    return from_main(do() if is_main() else None)


def gathered(items: Sequence[T]) -> list[T]:
    """The items of all processes, in the order of the processes, on each of them."""
    if not dist.is_initialized():
        return list(items)
    parts: list[list[T]] = [[]] * world_size()
    dist.all_gather_object(parts, list(items), group=_waiting)
    return [item for part in parts for item in part]


def total(values: Tensor) -> Tensor:
    """Sum over processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block before the others do (downloads, caches).

    If it fails there, the others still get their turn, and most likely the same error, instead of waiting for ever.
    """
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()
