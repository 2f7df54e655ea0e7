"""What an architecture allows, tried on its miniature: pairs that share a line, texts in one batch, continuations in one batch.

Masks and positions of a shared line, padding on the left, and a beginning that was read before all rely on attention that looks
wherever the mask lets it, and on positions that are told to it. Windows, chunks, ALiBi, recurrent layers and rope that depends on
the longest text do otherwise. What a trial does not show to be right is not done: one pair a line, one text at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from utils.engine.miniature import POSITIONS, VOCABULARY, WINDOW, miniature, positions, pretrained_models, windows
from utils.engine.packing import Packed, pack
from utils.tokens.example import Example, common_length

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of logits, as a share of the largest; float32 rounding is a hundred times smaller
NEW = 3  # tokens that a trial continues a prompt by


@dataclass(frozen=True)
class LineLimits:
    """Which pairs may be scored together. shares: whether pairs may share a line. window: tokens of the deepest pair that may.
    alone: tokens of the longest text that the model computes as if nothing stood beside it, or at all. beside: whether it
    computes shorter ones so."""

    shares: bool
    window: float = inf
    alone: float = inf
    beside: bool = True


@dataclass(frozen=True)
class BatchLimits:
    """Which prompts may be continued together. padded: prompts of unequal length. equal: of equal length. begins: whether a
    beginning may be read once for all, up to `window` tokens in a row. alone: tokens up to which padded rows are as if alone.
    cached: whether keys, values and states that are kept say what reading the whole text again says."""

    padded: bool
    equal: bool
    begins: bool
    window: float = inf
    alone: float = inf
    cached: bool = True

    def may_begin(self, longest: int) -> bool:
        """Whether prompts that have so many tokens with their continuations may go on from a beginning that was read before."""
        return self.begins and longest <= min(self.window, self.alone)


class Together(Protocol):
    """Continues prompts by NEW tokens in one batch, their first `common` ids read before, with a cache or without.

    (B, NEW, V) logits.
    """

    def __call__(self, model: nn.Module, prompts: Sequence[Sequence[int]], common: int, cached: bool) -> Tensor: ...


_lines: dict[str, LineLimits] = {}
_batches: dict[str, BatchLimits] = {}


def line_limits(model: nn.Module) -> LineLimits:
    """Of the model, the strictest where it is made of several. Tried once for each configuration."""
    each = [_remembered(_lines, whole, _try_lines) for whole in pretrained_models(model)]
    if not each:
        return LineLimits(shares=False)
    return LineLimits(
        all(one.shares for one in each),
        min(one.window for one in each),
        min(one.alone for one in each),
        all(one.beside for one in each),
    )


def batch_limits(model: nn.Module, together: Together) -> BatchLimits:
    """Of the model, the strictest where it is made of several. Tried once for each configuration."""
    each = [_remembered(_batches, whole, partial(_try_batches, together=together)) for whole in pretrained_models(model)]
    if not each:
        return BatchLimits(False, False, False)
    return BatchLimits(
        padded=all(one.padded for one in each),
        equal=all(one.equal for one in each),
        begins=all(one.begins for one in each),
        window=min(one.window for one in each),
        alone=min(one.alone for one in each),
        cached=all(one.cached for one in each),
    )


def _remembered(known: dict, model: PreTrainedModel, tried: Callable) -> LineLimits | BatchLimits:
    key = repr((type(model), model.config._attn_implementation, model.config.to_dict()))
    if key not in known:
        known[key] = tried(model)
    return known[key]


@torch.no_grad()
def _try_lines(model: PreTrainedModel) -> LineLimits:
    small = miniature(model)
    if small is None:
        return LineLimits(shares=False)
    # Six answers of one prompt, as deep as the window exactly, their last token not fed: a line wider than all that the copy was
    # made for.
    shallow = [Example(_ids(6), _ids(WINDOW - 5, seed)) for seed in range(1, 7)]
    deep = [Example(_ids(WINDOW + 4), _ids(16, seed)) for seed in range(1, 3)]
    beside = [Example(_ids(4), _ids(6)), Example(_ids(WINDOW + 4), _ids(16))]
    beyond = [Example(_ids(4), _ids(6)), Example(_ids(POSITIONS), _ids(POSITIONS))]
    shares, window, alone = _agree(small, shallow, shared=True), inf, inf
    if shares and not _agree(small, deep, shared=True):
        window = min(windows(model.config), default=0)
        shares = window > 0
    plain = _runs(small, beside[0]) and _runs(small, beside[1])  # a copy that does not run shows nothing
    if plain and not _runs(small, beyond[1]):
        alone = max(positions(model.config), default=inf)
    elif plain and not _agree(small, beyond, shared=False):  # the last trial: rope may remember the longest text that it saw
        alone = min(positions(model.config), default=0)
    return LineLimits(shares, window, alone, not plain or _agree(small, beside, shared=False))


@torch.no_grad()
def _try_batches(model: PreTrainedModel, together: Together) -> BatchLimits:
    small = miniature(model)
    if small is None:
        return BatchLimits(False, False, False)
    cached = _keeps(small, together)
    same = partial(_same_text, small, partial(together, cached=cached))
    padded, begins, window, alone = same([5, 36]), False, inf, inf
    if padded and not same([5, POSITIONS + 20]):
        alone = min(positions(model.config), default=1)
    if padded and cached and same([8, 12], common=6):
        begins = True
        if not same([22, 36], common=20):
            window = min(windows(model.config), default=0)
    return BatchLimits(padded, padded or same([20, 20]), begins and window > 0, window, alone, cached)


def _agree(model: PreTrainedModel, examples: Sequence[Example], shared: bool) -> bool:
    """Whether the examples in one batch get the logits that each gets alone."""
    try:
        packed = pack({"trial": examples}, 0, shared)
        found = _logits(model, packed).flatten(0, 1)[packed.source]
        wanted = torch.cat([_alone(model, example) for example in examples])
    except Exception:  # noqa: BLE001  whatever an unknown architecture raises: it does not do this
        return False
    return _close(found, wanted)


def _runs(model: PreTrainedModel, example: Example) -> bool:
    try:
        return bool(_alone(model, example).isfinite().all())
    except Exception:  # noqa: BLE001
        return False


def _alone(model: PreTrainedModel, example: Example) -> Tensor:
    """(answer tokens, V) logits from a plain forward pass of one text."""
    ids = torch.tensor([example.prompt + example.answer[:-1]])
    return model(input_ids=ids, use_cache=False).logits[0, len(example.prompt) - 1 :]


def _logits(model: PreTrainedModel, packed: Packed) -> Tensor:
    return model(**packed.model_inputs(torch.float32)).logits


def _keeps(model: PreTrainedModel, together: Together) -> bool:
    """Whether a prompt that is continued with a cache gets the logits of plain forward passes."""
    prompt = _ids(36)
    try:
        (found,) = together(model, [prompt], 0, True)
        text = torch.tensor([[*prompt, *found.argmax(-1).tolist()]])
        return _close(found, model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1 : -1])
    except Exception:  # noqa: BLE001
        return False


def _same_text(model: PreTrainedModel, together: Callable[..., Tensor], lengths: Sequence[int], common: int = 0) -> bool:
    """Whether prompts of these lengths are continued in one batch as each is alone."""
    prompts = [_ids(common, 99) + _ids(length - common, length + row) for row, length in enumerate(lengths)]
    assert not common or common_length(*prompts) >= common
    try:
        found = together(model, prompts, common)
        wanted = torch.cat([together(model, [prompt], 0) for prompt in prompts])
    except Exception:  # noqa: BLE001
        return False
    return _close(found, wanted)


def _close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def _ids(count: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())
