"""Greedy generation in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from tqdm import tqdm
from transformers import GenerationConfig

from data.prompts import Encoder
from utils.distributed import is_main

TOFU_TOTAL = 200  # tokens of prompt and answer together in the original TOFU code


@torch.no_grad()
def generate(
    model: nn.Module, encoder: Encoder, prompts: Sequence[Sequence[int]], batch_size: int, max_new_tokens: int
) -> list[str]:
    """Greedy continuations of token-id prompts as text, in the order given; special tokens and outer white space removed.

    A continuation ends at any EOS of the tokenizer or of the model's generation config. compat tofu_original limits prompt and
    continuation together to 200 tokens and keeps white space, as that code does.
    """
    tokenizer, original = encoder.tokenizer, encoder.compat == "tofu_original"
    device = next(model.parameters()).device
    ends = _end_ids(model, tokenizer.eos_token_id)
    order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    starts = range(0, len(order), batch_size)
    texts: dict[int, str] = {}
    was_training = model.training
    model.eval()
    for start in tqdm(starts, desc="generating", unit="batch", disable=not is_main() or not prompts):
        batch = order[start : start + batch_size]
        width = max(len(prompts[n]) for n in batch)
        ids = torch.full((len(batch), width), encoder.pad_id)
        mask = torch.zeros_like(ids)
        for row, n in enumerate(batch):
            ids[row, width - len(prompts[n]) :] = torch.tensor(prompts[n])
            mask[row, width - len(prompts[n]) :] = 1
        if encoder.masks_inner_eos:
            mask[ids == encoder.pad_id] = 0
        length = max(1, TOFU_TOTAL - width) if original else max_new_tokens
        config = GenerationConfig(do_sample=False, max_new_tokens=length, pad_token_id=encoder.pad_id, eos_token_id=ends)
        with _no_habits(model):
            output = model.generate(ids.to(device), attention_mask=mask.to(device), generation_config=config)
        decoded = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        texts |= {n: text if original else text.strip() for n, text in zip(batch, decoded, strict=True)}
    model.train(was_training)
    return [texts[n] for n in range(len(prompts))]


@contextmanager
def _no_habits(model: nn.Module) -> Iterator[None]:
    """Within the block, the model's own generation config does not fill in what ours leaves open (repetition penalties)."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _end_ids(model: nn.Module, eos: int) -> list[int]:
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({eos, *(end for end in ends if end is not None)})
