"""One batch of token-id prompts continued by a model, as token ids: what is done with them is the caller's affair."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from utils.engine.batches import by_length, in_halves
from utils.engine.engine import evaluating, known_id
from utils.engine.packing import check_length
from utils.engine.trials import NEW, BatchLimits, batch_limits

log = logging.getLogger(__name__)


class RowSampler(Protocol):
    """Changes the logits of a step: (B, ids so far), (B, V) -> (B, V)."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor: ...

    def rows(self, places: Sequence[int]) -> RowSampler:
        """What does the same for some of the rows, as a batch of their own, from their first token on."""
        ...


@torch.no_grad()
def continue_ids(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    pad: int,
    ends: Sequence[int],
    max_new_tokens: int,
    sampler: RowSampler | None = None,
    hide: int | None = None,
    beginning: Beginning | None = None,
    see_padding: bool = False,
) -> list[list[int]]:
    """The new ids of each prompt, up to and with its first end id; the most likely token each time, unless `sampler` says else.

    pad: id to fill up with on the left, and behind what has ended. ends: ids that end a continuation; without any, all continue
    for max_new_tokens. sampler: changes the logits of a step; the largest is taken.
    hide: token id that no position attends to. beginning: what all prompts begin with, already read. Prompts must not be empty.
    see_padding: padding is attended to, as where no mask is passed. The model's dropout and its own generation settings are off
    meanwhile. What does not fit in memory is continued in two halves, with the same result.

    What stands beside a prompt changes nothing: where the architecture would let it, prompts of one length are continued
    together, or each alone, and the beginning is read again (`BatchLimits` in utils/engine/trials.py). hide and see_padding are
    what released code does, right or wrong. Raises ValueError for a prompt that is longer than the model takes.
    """
    limits = how_together(model)
    check_length(max(map(len, prompts)), limits.alone)
    longest = max(map(len, prompts)) + max_new_tokens
    if not limits.may_begin(longest):
        beginning = None
    unequal = len({len(prompt) for prompt in prompts}) > 1
    apart = not limits.equal or unequal and not (limits.padded and longest <= limits.alone)
    parts = by_length([len(prompt) for prompt in prompts], most=inf if limits.equal else 1, equal=True)
    if see_padding or not apart:
        parts = [list(range(len(prompts)))]
    elif len(prompts) > 1:
        _say_once(model, limits.equal)
    seen = max(map(len, prompts)) if see_padding else None  # by half of the prompts too

    def compute(places: Sequence[int]) -> list[list[int]]:
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=known_id(pad, model),
            eos_token_id=list(ends) or None,
        )
        if not limits.cached:
            config.use_cache = False
        own = None if sampler is None else sampler.rows(places)
        width, output = _generated(model, [prompts[place] for place in places], config, own, hide, beginning, seen)
        return [_until_end(row, ends) for row in output[:, width:].tolist()]

    found: dict[int, list[int]] = {}
    for places in parts:
        found |= dict(zip(places, in_halves(compute, places, "prompts"), strict=True))
    return [found[place] for place in range(len(prompts))]


def _generated(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    sampler: RowSampler | None = None,
    hide: int | None = None,
    beginning: Beginning | None = None,
    seen: int | None = None,
) -> tuple[int, Any]:
    """The width of the prompts in one batch, padded on the left, and what `generate` returns for them.

    seen: padding up to this width is attended to.
    """
    width, first = seen or max(len(prompt) for prompt in prompts), 0 if beginning is None else len(beginning.ids)
    ids = torch.full((len(prompts), width), config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = first + width - len(prompt)  # what is left empty lies behind the beginning
        ids[row, :first], ids[row, start:] = torch.tensor(prompt[:first]), torch.tensor(prompt[first:])
        mask[row, :first], mask[row, start:] = 1, 1
    if hide is not None:
        mask[ids == hide] = 0
    if seen is not None:
        mask.fill_(1)
    device = next(model.parameters()).device
    extra: dict[str, Any] = {} if sampler is None else {"logits_processor": LogitsProcessorList([sampler])}
    if beginning is not None:
        extra["past_key_values"] = beginning.for_rows(len(prompts))
    with evaluating(model), _no_habits(model):
        return width, model.generate(ids.to(device), attention_mask=mask.to(device), generation_config=config, **extra)


def how_together(model: nn.Module) -> BatchLimits:
    """Which prompts the model may continue in one batch; tried once for each architecture."""
    return batch_limits(model, _trial)


def _trial(model: nn.Module, prompts: Sequence[Sequence[int]], common: int, cached: bool) -> Tensor:
    """(B, NEW, V) logits of continued prompts, their first `common` ids read before."""
    config = GenerationConfig(do_sample=False, max_new_tokens=NEW, pad_token_id=0, use_cache=cached)
    config.output_logits = config.return_dict_in_generate = True
    beginning = Beginning.of(model, prompts[0][:common]) if common else None
    return torch.stack(_generated(model, prompts, config, beginning=beginning)[1].logits, dim=1)


@cache
def _say(name: str, how: str) -> None:
    log.warning("%s may say something else beside other prompts: it continues %s (same texts, more time)", name, how)


def _say_once(model: nn.Module, equal: bool) -> None:
    _say(type(model).__name__, "prompts of one length together" if equal else "one prompt at a time")


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
