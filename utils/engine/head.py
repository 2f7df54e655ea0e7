"""The output head, and what a model does to logits behind it.

While the engine runs, the head returns statistics instead of logits, so nothing may touch them afterwards: what the model does to
its logits (soft-capping, a scale) is switched off for that long and done by the engine, to the logits of each chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from utils.engine.miniature import pretrained_models


def soft_capped(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap), in the order and type in which models write it (arXiv 2408.00118)."""
    return torch.tanh(logits / cap) * cap


def divided(logits: Tensor, by: float) -> Tensor:
    return logits / by


def multiplied(logits: Tensor, by: float) -> Tensor:
    return logits * by


# Name of the number, whether the configuration holds it or the model itself, the value at which nothing happens, what is done.
KNOWN: tuple[tuple[str, bool, float | None, Callable[[Tensor, float], Tensor]], ...] = (
    ("final_logit_softcapping", True, None, soft_capped),  # Gemma-2, -3n and -4, VaultGemma, NanoChat
    ("logits_scaling", True, 1.0, divided),  # Granite
    ("logit_scale", False, 1.0, multiplied),  # Cohere
)


@dataclass(frozen=True)
class LogitChange:
    """One thing that a model does to its logits. holder: the object whose attribute `name` holds the `value` it does it with."""

    holder: Any
    name: str
    value: float
    neutral: float | None
    function: Callable[[Tensor, float], Tensor]

    def __call__(self, logits: Tensor) -> Tensor:
        """(..., V) logits of the head -> (..., V) logits of the model."""
        return self.function(logits, self.value)

    def switch_off(self) -> None:
        """For good: from here on the model hands on what its head returns."""
        vars(self.holder)[self.name] = self.neutral  # not setattr: some configurations take no None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the model hands on what its head returns."""
        self.switch_off()
        try:
            yield
        finally:
            vars(self.holder)[self.name] = self.value


def output_head(model: nn.Module) -> nn.Linear:
    """The linear layer that maps hidden states to logits. Raises ValueError if there is none."""
    head = model.get_output_embeddings()
    if head is None or head.weight.dim() != 2:
        name = type(model).__name__
        raise ValueError(f"model {name} has no linear output head; only causal language models can be unlearned")
    return head


def known_changes(model: nn.Module) -> list[LogitChange]:
    """Everything that the model may do to its logits, as far as it is known how."""
    found = []
    for whole in pretrained_models(model):
        for name, configured, neutral, function in KNOWN:
            holder = whole.config.get_text_config() if configured else whole
            value = vars(holder).get(name)
            if value is not None and value != neutral:
                found.append(LogitChange(holder, name, float(value), neutral, function))
    return found


def owner(model: nn.Module) -> PreTrainedModel | nn.Module:
    """The whole model within adapters; of a combination, itself."""
    found = list(pretrained_models(model))
    return found[0] if len(found) == 1 else model


@contextmanager
def head_returns(head: nn.Module, instead: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> Iterator[None]:
    """Within the block, calling the head returns `instead(projection, hidden)` instead of logits."""
    project, wrapped = head.forward, head.__dict__.get("forward")
    head.forward = lambda hidden: instead(project, hidden)
    try:
        yield
    finally:
        del head.forward
        if wrapped is not None:  # an instance-level forward of a library (quantisation, offloading) goes back in place
            head.forward = wrapped
