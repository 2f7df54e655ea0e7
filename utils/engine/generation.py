"""Generation in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from peft import PeftModel
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from utils.distributed import is_main
from utils.engine.batches import by_length
from utils.engine.continuations import Beginning, RowSampler, continue_ids, end_ids, how_together
from utils.tokens.example import common_length
from utils.tokens.prompts import Encoder

TOFU_TOTAL = 200  # tokens of prompt and answer together in the original TOFU code


@dataclass(frozen=True)
class Released:
    """What released code does to a continuation: batches of so many prompts in their own order, padded on the left with EOS that
    is attended to; prompt and continuation together have `total` tokens at most; the first `dropped` new tokens are lost."""

    batch_size: int
    total: int
    dropped: int


LONG = 64  # tokens that all prompts begin with: worth reading once


def generate(
    model: nn.Module,
    encoder: Encoder,
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    max_new_tokens: int,
    sampler_of: Callable[[list[int]], RowSampler] | None = None,
    released: Released | None = None,
) -> Iterator[tuple[list[int], list[str]]]:
    """Continuations of token-id prompts as text, batch by batch: (places in `prompts`, their texts), longest first.

    Greedy, unless `sampler_of` makes what draws the tokens of a batch, given the places of its prompts.

    Special tokens are removed. A continuation ends at any EOS of the tokenizer or of the model's generation
    config. A long beginning that all prompts share, such as worked examples, is read once. Some compats limit prompt and
    continuation together to 200 tokens (`limits_both`); `released` says it of other code, in whose batches the order counts.
    """
    if released is not None:
        yield from _as_released(model, encoder, prompts, released)
        return
    tokenizer, original = encoder.tokenizer, encoder.limits_both
    ends = end_ids(model, tokenizer)
    hide = encoder.pad_id if encoder.masks_inner_eos else None
    beginning = _beginning(model, prompts, max_new_tokens) if hide is None else None
    lengths = [len(prompt) for prompt in prompts]
    batches = by_length(lengths, most=batch_size, equal=bool(prompts) and not how_together(model).padded)
    for batch in tqdm(batches, desc="generating", unit="batch", disable=not is_main() or not prompts):
        asked = [prompts[n] for n in batch]
        length = max(1, TOFU_TOTAL - max(map(len, asked))) if original else max_new_tokens
        sampler = None if sampler_of is None else sampler_of(batch)
        found = continue_ids(model, asked, encoder.pad_id, ends, length, sampler, hide, beginning)
        yield batch, tokenizer.batch_decode(found, skip_special_tokens=True)


def _beginning(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Beginning | None:
    """What all prompts begin with, if it is long enough to matter and the model is one that may go on from it."""
    if len(prompts) < 2 or not isinstance(model, PreTrainedModel | PeftModel):
        return None
    length = min(common_length(*prompts), *(len(prompt) - 1 for prompt in prompts))  # each goes on from a token of its own
    if length < LONG or not how_together(model).may_begin(max(map(len, prompts)) + max_new_tokens):
        return None
    return Beginning.of(model, prompts[0][:length])


def _as_released(
    model: nn.Module, encoder: Encoder, prompts: Sequence[Sequence[int]], how: Released
) -> Iterator[tuple[list[int], list[str]]]:
    tokenizer, ends = encoder.tokenizer, end_ids(model, encoder.tokenizer)
    starts = range(0, len(prompts), how.batch_size)
    for start in tqdm(starts, desc="generating", unit="batch", disable=not is_main() or not prompts):
        asked = prompts[start : start + how.batch_size]
        length = max(1, how.total - max(map(len, asked)))
        found = continue_ids(model, asked, tokenizer.eos_token_id, ends, length, see_padding=True)
        texts = tokenizer.batch_decode([ids[how.dropped :] for ids in found], skip_special_tokens=True)
        yield list(range(start, start + len(asked))), texts
