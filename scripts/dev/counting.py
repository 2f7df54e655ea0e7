"""Measuring two ways of doing the same thing: arithmetic, memory, time."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

MEBIBYTE = 2**20


def _attention(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient, query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# torch counts attention on CUDA only; without these two, attention on the CPU would be free on both sides.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of all matrix products and attention in `call`, with backward passes and recomputation.

    A masked position counts like any other.
    """
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()


class LiveBytes(TorchDispatchMode):
    """Within the block, the bytes of tensors that were made in it and are still alive; `peak` is their maximum."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tree_map_only(Tensor, self._note, (args, kwargs))  # made before the block: not counted
        result = func(*args, **kwargs)
        tree_map_only(Tensor, self._count, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        self._known.setdefault(tensor.untyped_storage(), True)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = True
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Largest sum of bytes of all tensors that `call` makes, at any one time; what exists before does not count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as tracker:
        call()
    return tracker.peak


def median_seconds(calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median wall-clock seconds of each call, after one warm-up.

    Taken in turns (A B A B ...), so that a busy spell of the machine slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def weight_bytes(module: nn.Module | None) -> int:
    """Bytes of all parameters and buffers; shared tensors once, nothing for None."""
    if module is None:
        return 0
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in module.state_dict().values()}
    return sum(storages.values())
