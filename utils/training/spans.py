"""Rows for losses that look beyond the answers: what `Loss.spans` asks for, made of the examples of one micro-batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch

from utils.engine.engine import KERNELS_WITHOUT_MASK, Engine, evaluating
from utils.engine.loss import Loss, Span, engine_needs, rows_of
from utils.engine.packing import pack
from utils.items.streams import Drawn, merged
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder

log = logging.getLogger(__name__)

NOTHING_AT_PADDING = "computes nothing at padding, which the loss averages over; use model.attn=sdpa"


def micro_batch(items: Sequence[Drawn], loss: Loss, encoder: Encoder) -> dict[str, list[Example]]:
    """What the engine is asked about for the items of a micro-batch, stream by stream (`engine_needs`). Raises as `row`."""
    streams = merged(items, tuple(loss.needs))
    for stream, span in loss.spans.items():
        longest = max((_size(example) for example in streams[stream]), default=0)
        streams[rows_of(stream)] = [row(example, span, longest, encoder) for example in streams[stream]]
    return {name: streams[name] for name in engine_needs(loss)}


def row(example: Example, span: Span, longest: int, encoder: Encoder) -> Example:
    """The example with every position of its row asked for. longest: tokens of the micro-batch's longest row.

    Raises ValueError for a text that is longer than its row.
    """
    ids, eos = example.prompt + example.answer, encoder.tokenizer.eos_token_id
    filler = encoder.pad_id if span.filler == "pad" or eos is None else eos
    if not span.pads:  # behind the last position comes a token that is never fed
        return Example(ids[:1], (*ids[1:], filler))
    width = {"longest": longest, "max_length": encoder.max_length}.get(span.length, span.length)
    if len(ids) > width:
        raise ValueError(
            f"method.loss.padded_length={width}: a row has {len(ids)} tokens; write at least as many, or model.max_length={width}"
        )
    text = len(ids)
    while text > len(example.prompt) and ids[text - 1] == filler:
        text -= 1
    return Example(ids[:1], ids[1:] + (filler,) * (width - len(ids) + 1), padding=width - text + 1)


def check_rows(loss: Loss, examples: Iterable[Example], encoder: Encoder) -> None:
    """Raises ValueError if one of the examples that a run may read is longer than rows are to be."""
    fixed = [span for span in loss.spans.values() if span.length not in ("text", "longest")]
    if fixed:
        longest = max(examples, key=_size)
        for span in fixed:
            row(longest, span, 0, encoder)


def fit_engine(engine: Engine, loss: Loss) -> None:
    """Has padding computed as the model itself would. Raises ValueError for an attention kernel that leaves it out.

    Some models (OPT) count positions by the attention mask, so that all padding stands at one place; shared lines count by depth.
    These get one pair per line, where the model counts by itself.
    """
    if not any(span.pads for span in loss.spans.values()):
        return
    kernel = engine.model.config._attn_implementation
    if kernel in KERNELS_WITHOUT_MASK:
        raise ValueError(f"model.attn={kernel}: {NOTHING_AT_PADDING}")
    if engine.shared and not _counts_by_depth(engine):
        log.warning("%s counts padding by the mask: one pair per line (same numbers, more time)", type(engine.model).__name__)
        engine.shared = False


@torch.no_grad()
def _counts_by_depth(engine: Engine) -> bool:
    """Tries both layouts on a short row with padding."""
    text = tuple(range(3, min(engine.vocabulary, 12)))
    rows = {"check": [Example(text[:1], text[1:] + (engine.pad,) * 9, padding=9)]}
    with evaluating(engine.model):
        plain, shared = (
            engine.statistics(pack(rows, engine.pad, how, engine.hide).to(engine.device), {"check": ("entropy",)}, ("entropy",))
            for how in (False, True)
        )
    return bool((shared - plain).abs().max() <= (1e-4 if engine.dtype == torch.float32 else 0.05))


def _size(example: Example) -> int:
    return len(example.prompt) + len(example.answer)
