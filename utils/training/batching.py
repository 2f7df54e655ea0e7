"""From the global batch size that the user gives to what each process holds at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

AUTO_TOKENS_SHARE = 0.3
CPU_LIMIT = 16
GPU_LIMIT = 32


@dataclass(frozen=True)
class BatchPlan:
    """batch_size = processes * per_device * accumulation."""

    batch_size: int
    processes: int
    per_device: int
    accumulation: int

    def __str__(self) -> str:
        return (
            f"batch {self.batch_size} = {self.processes} process(es) x {self.per_device} per device x "
            f"{self.accumulation} accumulation step(s)"
        )


def plan_batch(batch_size: int, processes: int, per_device: int | str, largest: int) -> BatchPlan:
    """Divides the global batch. per_device: a number, or auto = the largest divisor that is at most `largest`.

    Raises ValueError naming the key and the nearest sizes that work.
    """
    if batch_size % processes:
        below, above = batch_size // processes * processes, (batch_size // processes + 1) * processes
        choices = " or ".join(str(size) for size in (below, above) if size)
        raise ValueError(f"batch_size={batch_size}: cannot be divided between {processes} processes; use {choices}")
    share = batch_size // processes
    if per_device == "auto":
        per_device = max(size for size in range(1, min(share, largest) + 1) if share % size == 0)
    if share % per_device:
        sizes = ", ".join(str(size) for size in range(1, share + 1) if share % size == 0)
        raise ValueError(
            f"per_device_batch_size={per_device}: does not divide the {share} items that each of {processes} process(es) "
            f"takes of batch_size={batch_size}; use one of {sizes}, or auto"
        )
    return BatchPlan(batch_size, processes, per_device, share // per_device)


def largest_micro_batch(config: PretrainedConfig, tokens_per_item: int, recompute: bool) -> int:
    """How many items fit on the device at once: a cautious estimate from layers, width and free memory.

    Activations of one token and layer take about 34 * hidden_size bytes in 16 bit (Korthikanti et al., arXiv 2205.05198, without
    the attention matrix); with activation checkpointing only the layer inputs (2 bytes each) stay.
    """
    if not torch.cuda.is_available():
        return CPU_LIMIT
    free, _ = torch.cuda.mem_get_info()
    per_token = config.num_hidden_layers * config.hidden_size * (2 if recompute else 34)
    return max(1, min(GPU_LIMIT, int(AUTO_TOKENS_SHARE * free / (per_token * tokens_per_item))))
