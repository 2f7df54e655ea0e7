"""Packing: many (prompt, answer) pairs into few token lines, every common beginning stored once.

    pairs     q1+a  q1+b  q2+c                      (what a loss or a metric asks about)
    rows      [q1 | a | b]  [q2 | c]                (all answers of one prompt)
    lines     [q1 | a | b | q2 | c]                 (as many rows as make lines of nearly the same length)

Within a line the pairs form a trie, written depth first: a prompt that several answers share, a system prompt that
several questions share, and the words with which two answers both begin are there once. A token sees the tokens on its
path from the root, and its position is its depth, so each pair is computed exactly as if it stood alone. Padding that is asked
about (`Example.padding`) lies behind its text like an answer, but is seen by nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Tensor

from utils.tokens.example import Example, common_length

# What one more column costs a token, as a share of the arithmetic that it costs anyway: 1 / (6 hidden sizes) by count,
# more where masks slow attention down. Only the trade between padding and wide lines depends on it.
WIDTH_COST = 5e-4

Ids = tuple[int, ...]
Fed = tuple[Ids, int]
"""What the model reads of a pair, and how many tokens of it are text; those behind them are padding."""


@dataclass(frozen=True)
class Packed:
    """Model input for L lines of W tokens that hold n answer tokens; every tensor is int64 on one device.

    input_ids, position_ids: (L, W). reach: (L, W) column after the last token that may see this one, 0 on padding.
    source: (n,) flat index into (L, W) of the position that predicts each answer token. labels: (n,) the answer tokens.
    streams: stream name -> (first, lengths): its answer tokens are `first : first + sum(lengths)`, example by example.
    shared: whether lines need the (W, W) mask (False: one pair per line, plain right padding).
    hide: token id that no position may attend to; None hides nothing. Released code that derives the attention mask
        from token values hides every EOS inside a prompt this way.
    """

    input_ids: Tensor
    position_ids: Tensor
    reach: Tensor
    source: Tensor
    labels: Tensor
    streams: Mapping[str, tuple[int, tuple[int, ...]]]
    shared: bool
    examples: Mapping[str, tuple[Example, ...]] = field(repr=False)
    hide: int | None = None

    def to(self, device: torch.device | str, **options: bool) -> Packed:
        """The same batch on another device (the name that accelerate looks for)."""
        names = ("input_ids", "position_ids", "reach", "source", "labels")
        return replace(self, **{name: vars(self)[name].to(device, **options) for name in names})

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """(L, 1, W, W) additive mask for shared lines, (L, W) int64 otherwise.

        Additive rather than boolean, because eager attention adds whatever mask it gets. A position that would see
        nothing (padding) sees itself, so that no softmax runs over nothing.
        """
        readable = torch.ones_like(self.reach, dtype=torch.bool) if self.hide is None else self.input_ids != self.hide
        if not self.shared:
            return ((self.reach > 0) & readable).long()
        column = torch.arange(self.reach.shape[1], device=self.reach.device)
        visible = (column[None, :] <= column[:, None]) & (column[:, None] < self.reach[:, None, :]) & readable[:, None, :]
        visible |= (column[None, :] == column[:, None]) & ~visible.any(dim=-1, keepdim=True)
        blocked = torch.zeros(visible.shape, dtype=dtype, device=self.reach.device)
        return blocked.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]

    def model_inputs(self, dtype: torch.dtype) -> dict[str, Tensor | bool]:
        """What the model is called with. dtype: of its weights."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask(dtype), "use_cache": False}
        return {**inputs, "position_ids": self.position_ids} if self.shared else inputs

    def tabulate(self, stream: str, values: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) values of all answer tokens -> (B, T) values of one stream, zero on padding, and their (B, T) mask."""
        first, lengths = self.streams[stream]
        counts = torch.tensor(lengths, dtype=torch.long, device=values.device)
        mask = torch.arange(max(lengths, default=0), device=values.device) < counts[:, None]
        table = values.new_zeros(mask.shape)
        table[mask] = values[first : first + sum(lengths)]
        return table, mask


@dataclass(frozen=True)
class Layout:
    """How one model's pairs are written into lines; the arguments of `pack`, and two limits.

    window: tokens of the deepest pair that may share a line; with a deeper one in the batch, every pair gets its own. alone:
    tokens of the longest text that the model takes. See `LineLimits` in utils/engine/trials.py.
    """

    pad: int
    shared: bool
    hide: int | None = None
    window: float = inf
    alone: float = inf

    def pack(self, streams: Mapping[str, Sequence[Example]]) -> Packed:
        """As `pack` does. Raises ValueError for a text that is too long."""
        longest = max((len(e.prompt) + len(e.answer) - 1 for examples in streams.values() for e in examples), default=0)
        check_length(longest, self.alone)
        return pack(streams, self.pad, self.shared and longest <= self.window, self.hide)


def check_length(tokens: int, limit: float) -> None:
    """Raises ValueError for a text that is longer than the model takes."""
    if tokens > limit:
        raise ValueError(
            f"model.max_length: a text may have {tokens} tokens, but beyond {limit} this model has no positions, or turns those "
            f"of all texts of a batch (dynamic or long rope); set model.max_length={limit}"
        )


def pack(streams: Mapping[str, Sequence[Example]], pad: int, shared: bool = True, hide: int | None = None) -> Packed:
    """Packs the examples of all streams.

    pad: token id written on padding (any id will do: the mask goes by length).
    Raises ValueError if there are no examples, or for one without prompt or answer tokens.
    """
    pairs = [example for examples in streams.values() for example in examples]
    _check(streams)
    fed = [_fed(example) for example in pairs]
    grouped = _lines(pairs, fed) if shared else [[number] for number in range(len(pairs))]
    lines = [Line([fed[number] for number in numbers]) for numbers in grouped]
    width = max(len(line.tokens) for line in lines)
    sources: list[list[int]] = [[] for _ in pairs]
    for start, (line, numbers) in enumerate(zip(lines, grouped, strict=True)):
        for number in numbers:
            columns = line.columns[fed[number]][len(pairs[number].prompt) - 1 :]
            sources[number] = [start * width + columns[place] for place, _ in pairs[number].supervised()]
    layout, first = {}, 0
    for stream, examples in streams.items():
        lengths = tuple(len(example) for example in examples)
        layout[stream] = (first, lengths)
        first += sum(lengths)
    return Packed(
        _padded([line.tokens for line in lines], width, pad),
        _padded([line.depth for line in lines], width, 0),
        _padded([line.reach for line in lines], width, 0),
        torch.tensor([index for source in sources for index in source]),
        torch.tensor([label for example in pairs for _, label in example.supervised()]),
        layout,
        shared,
        {stream: tuple(examples) for stream, examples in streams.items()},
        hide,
    )


class Line:
    """Token sequences as a trie in depth-first order.

    tokens, depth, reach: one entry per token; `reach` is the column after its last descendant, 0 for padding. columns: sequence
    -> the columns of its tokens.
    """

    def __init__(self, sequences: Sequence[Fed]):
        self.tokens: list[int] = []
        self.depth: list[int] = []
        self.reach: list[int] = []
        self.columns: dict[Fed, list[int]] = {}
        previous: Ids = ()
        text_before = 0
        path: list[int] = []
        # Sorted, so that sequences with a common beginning are neighbours.
        for sequence, text in sorted(set(sequences)):
            kept = common_length(previous, sequence)
            if text != text_before:  # the same token may be padding of the one and text of the other
                kept = min(kept, text, text_before)
            self._close(path[kept:text_before])
            path = path[:kept]
            for depth in range(kept, len(sequence)):
                path.append(len(self.tokens))
                self.tokens.append(sequence[depth])
                self.depth.append(depth)
                self.reach.append(0)
            self.columns[sequence, text] = path
            previous, text_before = sequence, text
        self._close(path[:text_before])

    def _close(self, columns: Sequence[int]) -> None:
        for column in columns:
            self.reach[column] = len(self.tokens)


def _fed(example: Example) -> Fed:
    # The last token of an answer predicts nothing that is asked for, so it is never fed.
    ids = example.prompt + example.answer[:-1]
    return ids, min(len(ids), len(ids) + 1 - example.padding)


def _check(streams: Mapping[str, Sequence[Example]]) -> None:
    for stream, examples in streams.items():
        for example in examples:
            if not example.prompt or not len(example):
                raise ValueError(f"stream {stream}: an example needs prompt and answer tokens, got {example}")
    if not any(streams.values()):
        raise ValueError(f"nothing to pack: the streams {', '.join(streams)} hold no examples")


def _lines(pairs: Sequence[Example], fed: Sequence[Fed]) -> list[list[int]]:
    """Pair numbers of each line; the answers of one prompt stay together."""
    rows: dict[Ids, list[int]] = {}
    for number, example in enumerate(pairs):
        rows.setdefault(example.prompt, []).append(number)
    sizes = [len(Line([fed[number] for number in row]).tokens) for row in rows.values()]
    lines = _spread(sizes, common_length(*rows) if len(rows) > 1 else 0)
    numbers = list(rows.values())
    return [[number for r in line for number in numbers[r]] for line in lines]


def _spread(sizes: Sequence[int], common: int) -> list[list[int]]:
    """Rows into lines at the least cost: longest row first, always to the emptiest line, for the best number of lines.

    common: tokens that all rows begin with; each line holds them once.
    """
    order = sorted(range(len(sizes)), key=lambda r: -sizes[r])
    best: list[list[int]] = []
    least = inf
    for count in range(len(sizes), 0, -1):
        filled = sum(sizes) - common * (len(sizes) - count)
        if filled * (1 + WIDTH_COST * filled / count) > least:
            break  # even without any padding it would cost more, and fewer lines more still
        lines: list[list[int]] = [[] for _ in range(count)]
        room = [(common, number) for number in range(count)]
        for r in order:
            length, number = heapq.heappop(room)
            lines[number].append(r)
            heapq.heappush(room, (length + sizes[r] - common, number))
        width = max(room)[0]
        cost = count * width * (1 + WIDTH_COST * width)
        if cost < least:
            best, least = lines, cost
    return best


def _padded(lists: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    return torch.tensor([[*values, *[fill] * (width - len(values))] for values in lists])
