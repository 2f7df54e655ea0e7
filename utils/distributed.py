"""The few questions that the rest of the code asks about processes; all answers hold without a process group too.

Imports torch only where it computes: who reads files alone gets by without.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")

COMPUTING = timedelta(minutes=30)  # how far apart processes may be that compute together; what trainers allow by default
WAITING = timedelta(days=30)  # for what one process does alone; if that dies, the launcher ends the others

_waiting: ProcessGroup | None = None  # for words and files: needs no device, and has patience


def launched() -> bool:
    """Whether torchrun (or a launcher with the same variables) started this process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def start() -> None:
    """Joins the process group if the script was launched by torchrun and no group exists yet; leaves it when Python ends."""
    global _waiting
    if not launched():
        return
    import torch
    from torch import distributed as dist

    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=COMPUTING)
        _waiting = dist.new_group(backend="gloo", timeout=WAITING)
        # Threads of a group that outlive the interpreter now and then abort a process whose work is done.
        atexit.register(_leave)


def _leave() -> None:
    if (dist := _group()) is not None:
        dist.destroy_process_group()


def rank() -> int:
    return int(os.environ.get("RANK", "0")) if (dist := _group()) is None else dist.get_rank()


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1")) if (dist := _group()) is None else dist.get_world_size()


def is_main() -> bool:
    """True on the process that writes files and prints."""
    return rank() == 0


def device() -> torch.device:
    """Where models of this process compute."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def barrier() -> None:
    """Waits for all processes, however long one of them judges, downloads, hashes or merges alone."""
    if (dist := _group()) is not None:
        dist.barrier(_waiting)


def highest(number: int, device: torch.device) -> int:
    """The highest number that any process says, on every process: what one of them was told, all must do."""
    if (dist := _group()) is None:
        return number
    import torch

    said = torch.tensor([number], device=device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return int(said.item())


def from_main(value: T) -> T:
    """The main process's object, on every process: what to do must not depend on a clock or on the files that a process sees."""
    if (dist := _group()) is None:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, group=_waiting)
    return said[0]


def by_main(do: Callable[[], T]) -> T:
    """What the main process makes of it, on every process: what it finds in files decides for all which way they go."""
    return from_main(do() if is_main() else None)


def gathered(items: Sequence[T]) -> list[T]:
    """The items of all processes, in the order of the processes, on each of them."""
    if (dist := _group()) is None:
        return list(items)
    parts: list[list[T]] = [[]] * world_size()
    dist.all_gather_object(parts, list(items), group=_waiting)
    return [item for part in parts for item in part]


def total(values: Tensor) -> Tensor:
    """Sum over processes, in place."""
    if (dist := _group()) is not None:
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


def peak_memory() -> int | None:
    """Bytes that this process held at most on its GPU since `forget_peak`; None if it uses none."""
    torch = _torch_on_gpu()
    return None if torch is None else torch.cuda.max_memory_allocated()


def forget_peak() -> None:
    """Begins to measure anew: a sweep runs many jobs in one process."""
    if (torch := _torch_on_gpu()) is not None:
        torch.cuda.reset_peak_memory_stats()


def gpus() -> list[str]:
    """Names of the GPUs that models of this process may compute on; none where it loads none."""
    torch = _torch_on_gpu()
    return [] if torch is None else [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _torch_on_gpu() -> Any:
    """torch, if this process has imported it and sees a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _group() -> Any:
    """torch.distributed if this process belongs to a group; who has not imported it cannot."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_initialized() else None
