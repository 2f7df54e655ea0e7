"""One batch of token-id prompts continued by a model, as token ids: what is done with them is the caller's affair."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from utils.engine.engine import evaluating


@torch.no_grad()
def continue_ids(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    pad: int,
    ends: Sequence[int],
    max_new_tokens: int,
    sampler: LogitsProcessor | None = None,
    hide: int | None = None,
    beginning: Beginning | None = None,
    see_padding: bool = False,
) -> list[list[int]]:
    """The new ids of each prompt, up to and with its first end id; the most likely token each time, unless `sampler` says else.

    pad: id to fill up with on the left, and behind what has ended. ends: ids that end a continuation; without any, all continue
    for max_new_tokens. sampler: changes the logits of a step, (B, ids so far), (B, V) -> (B, V); the largest is taken.
    hide: token id that no position attends to. beginning: what all prompts begin with, already read. Prompts must not be empty.
    see_padding: padding is attended to, as where no mask is passed. The model's dropout and its own generation settings are off
    meanwhile.
    """
    width, first = max(len(prompt) for prompt in prompts), 0 if beginning is None else len(beginning.ids)
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = first + width - len(prompt)  # what is left empty lies behind the beginning
        ids[row, :first], ids[row, start:] = torch.tensor(prompt[:first]), torch.tensor(prompt[first:])
        mask[row, :first], mask[row, start:] = 1, 1
    if hide is not None:
        mask[ids == hide] = 0
    if see_padding:
        mask.fill_(1)
    device = next(model.parameters()).device
    config = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad, eos_token_id=list(ends) or None)
    extra: dict[str, Any] = {} if sampler is None else {"logits_processor": LogitsProcessorList([sampler])}
    if beginning is not None:
        extra["past_key_values"] = beginning.for_rows(len(prompts))
    with evaluating(model), _no_habits(model):
        output = model.generate(ids.to(device), attention_mask=mask.to(device), generation_config=config, **extra)
    return [_until_end(row, ends) for row in output[:, width:].tolist()]


@dataclass(frozen=True)
class Beginning:
    """Keys and values of the token ids that many prompts begin with: read once, used by every batch."""

    ids: tuple[int, ...]
    cache: Cache

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, ids: Sequence[int]) -> Beginning:
        """Reads `ids` once."""
        cache = DynamicCache(config=model.config)
        asked = torch.tensor([ids], device=next(model.parameters()).device)
        with evaluating(model):
            model(input_ids=asked, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cls(tuple(ids), cache)

    def for_rows(self, rows: int) -> Cache:
        """A copy for a batch of so many rows, which the batch may write to."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Bare text as ids, with the tokenizer's own BOS if it has one; without the EOS that some put behind every text."""
    ids = tokenizer(text, verbose=False).input_ids
    eos = tokenizer.eos_token_id
    closed = bool(ids) and ids[-1] == eos and eos != tokenizer.bos_token_id and not text.endswith(tokenizer.eos_token)
    return ids[:-1] if closed else ids


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer: EOS of the tokenizer and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({end for end in (tokenizer.eos_token_id, *ends) if end is not None})


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the tokenizer's, else EOS, else 0. Masks go by length, so its value is never read."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    # What follows the first end is padding, which may be an ordinary word's id or EOS itself.
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in ends), ids)


@contextmanager
def _no_habits(model: nn.Module) -> Iterator[None]:
    """Within the block, the model's own generation config does not fill in what ours leaves open (repetition penalties)."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
