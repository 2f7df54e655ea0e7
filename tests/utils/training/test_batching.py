"""From the global batch to what each process holds at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from utils.training.batching import CPU_LIMIT, GPU_LIMIT, largest_micro_batch, plan_batch


@pytest.mark.parametrize(
    "batch, processes, per_device, largest, expected",
    [
        (32, 1, "auto", 16, (16, 2)),
        (32, 2, "auto", 16, (16, 1)),
        (32, 1, 4, 16, (4, 8)),
        (30, 1, "auto", 16, (15, 2)),  # the largest divisor that fits
        (7, 1, "auto", 4, (1, 7)),  # a prime number
        (4, 4, "auto", 16, (1, 1)),
        (64, 1, 64, 16, (64, 1)),  # a person may know better
    ],
)
def test_the_product_is_the_global_batch(batch, processes, per_device, largest, expected):
    plan = plan_batch(batch, processes, per_device, largest)
    assert (plan.per_device, plan.accumulation) == expected
    assert plan.processes * plan.per_device * plan.accumulation == batch
    assert str(plan).startswith(f"batch {batch} = {processes} process(es) x {expected[0]} per device x {expected[1]} acc")


@pytest.mark.parametrize(
    "batch, processes, per_device, message",
    [
        (33, 2, "auto", "batch_size=33: cannot be divided between 2 processes; use 32 or 34"),
        (1, 2, "auto", "batch_size=1: cannot be divided between 2 processes; use 2"),
        (32, 2, 3, "per_device_batch_size=3: does not divide the 16 items .* use one of 1, 2, 4, 8, 16, or auto"),
        (4, 1, 8, "per_device_batch_size=8: does not divide the 4 items"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_sizes_that_can(batch, processes, per_device, message):
    with pytest.raises(ValueError, match=message):
        plan_batch(batch, processes, per_device, largest=16)


def test_memory_decides_on_the_gpu(monkeypatch):
    # Llama-2-7B: 32 layers x 4096; one item of 100 tokens keeps 100 * 32 * 4096 * 34 bytes = 425 MiB of activations.
    config = SimpleNamespace(num_hidden_layers=32, hidden_size=4096)
    assert largest_micro_batch(config, 100, False) == CPU_LIMIT
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gibibytes, expected in ((80, GPU_LIMIT), (14, 10), (1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=gibibytes: (free * 2**30, 0))
        assert largest_micro_batch(config, 100, False) == expected
    assert largest_micro_batch(config, 100, True) == 12  # 1 GiB again: recomputed activations take 17 times less
