"""Packing: many (prompt, answer) pairs into few token lines, each prompt stored once for all of its answers.

    pairs     q1+a  q1+b  q2+c                      (what a loss or a metric asks about)
    rows      [q1 | a | b]  [q2 | c]                (one row per distinct prompt)
    lines     [q1 | a | b . .]  [q2 | c . . . .]    (rows laid end to end until a line is as long as the longest row)

A token sees its own row only: the prompt, and the earlier tokens of its own answer. Positions restart after the prompt for every
answer, so each pair is computed exactly as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data.prompts import Example


@dataclass(frozen=True)
class Packed:
    """Model input for L lines of W tokens that hold n answer tokens; every tensor is int64 on one device.

    input_ids, position_ids: (L, W). row: (L, W) row number, -1 on padding. branch: (L, W) 0 on prompts, k on the k-th answer.
    source: (n,) flat index into (L, W) of the position that predicts each answer token. labels: (n,) the answer tokens.
    streams: stream name -> (first, lengths): its answer tokens are `first : first + sum(lengths)`, example by example.
    shared: whether lines need the row mask (False: one pair per line, plain right padding).
    hide: token id that no other position may attend to; None hides nothing. Released code that derives the attention mask from
        token values hides every EOS inside a prompt this way.
    """

    input_ids: Tensor
    position_ids: Tensor
    row: Tensor
    branch: Tensor
    source: Tensor
    labels: Tensor
    streams: Mapping[str, tuple[int, tuple[int, ...]]]
    shared: bool
    examples: Mapping[str, tuple[Example, ...]] = field(repr=False)
    hide: int | None = None

    def to(self, device: torch.device | str, **options: bool) -> Packed:
        """The same batch on another device (the name that accelerate looks for)."""
        moved = {
            name: getattr(self, name).to(device, **options)
            for name in ("input_ids", "position_ids", "row", "branch", "source", "labels")
        }
        return Packed(**moved, streams=self.streams, shared=self.shared, examples=self.examples, hide=self.hide)

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """(L, 1, W, W) additive mask for shared rows, (L, W) int64 otherwise.

        Additive rather than boolean, because eager attention adds whatever mask it gets. Padding sees itself, so that no
        softmax runs over nothing.
        """
        if not self.shared:
            return ((self.row >= 0) & (self.input_ids != self.hide if self.hide is not None else True)).long()
        width = self.row.shape[1]
        same_row = self.row[:, :, None] == self.row[:, None, :]
        same_branch = (self.branch[:, None, :] == 0) | (self.branch[:, :, None] == self.branch[:, None, :])
        earlier = torch.ones(width, width, dtype=torch.bool, device=self.row.device).tril()
        visible = same_row & same_branch & earlier
        if self.hide is not None:
            itself = torch.eye(width, dtype=torch.bool, device=self.row.device)
            visible &= (self.input_ids != self.hide)[:, None, :] | itself
        blocked = torch.zeros(visible.shape, dtype=dtype, device=self.row.device)
        return blocked.masked_fill(~visible, torch.finfo(dtype).min)[:, None]

    def tabulate(self, stream: str, values: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) values of all answer tokens -> ((B, T) values of one stream, zero on padding, and its (B, T) bool mask)."""
        first, lengths = self.streams[stream]
        counts = torch.tensor(lengths, device=values.device)
        mask = torch.arange(max(lengths), device=values.device) < counts[:, None]
        table = values.new_zeros(mask.shape)
        table[mask] = values[first : first + sum(lengths)]
        return table, mask


def pack(
    streams: Mapping[str, Sequence[Example]], pad: int, shared: bool = True, hide: int | None = None
) -> Packed:
    """Packs the examples of all streams. Raises ValueError for an example without prompt or answer tokens.

    pad: token id written on padding (any id will do: the mask goes by length).
    """
    pairs = [(example, stream) for stream, examples in streams.items() for example in examples]
    for example, stream in pairs:
        if not example.prompt or not example.answer:
            raise ValueError(f"stream {stream}: an example needs prompt and answer tokens, got {example}")
    rows = _rows([example for example, _ in pairs], shared)
    lines = _lines([_row_length(pairs, row) for row in rows], shared)
    width = max(sum(_row_length(pairs, rows[r]) for r in line) for line in lines)
    shape = (len(lines), width)
    ids = torch.full(shape, pad)
    positions = torch.zeros(shape, dtype=torch.long)
    row_of = torch.full(shape, -1)
    branch = torch.zeros(shape, dtype=torch.long)
    sources: list[list[int]] = [[] for _ in pairs]
    for number, line in enumerate(lines):
        at = 0
        for r in line:
            at = _write_row(pairs, rows[r], r, number, at, width, ids, positions, row_of, branch, sources)
    layout, first = {}, 0
    for stream, examples in streams.items():
        lengths = tuple(len(example.answer) for example in examples)
        layout[stream] = (first, lengths)
        first += sum(lengths)
    return Packed(
        ids,
        positions,
        row_of,
        branch,
        torch.tensor([index for source in sources for index in source]),
        torch.tensor([token for example, _ in pairs for token in example.answer]),
        layout,
        shared,
        {stream: tuple(examples) for stream, examples in streams.items()},
        hide,
    )


def _rows(examples: Sequence[Example], shared: bool) -> list[list[int]]:
    """Groups example numbers by prompt, in order of first appearance."""
    if not shared:
        return [[number] for number in range(len(examples))]
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, example in enumerate(examples):
        groups.setdefault(example.prompt, []).append(number)
    return list(groups.values())


def _row_length(pairs: Sequence[tuple[Example, str]], row: Sequence[int]) -> int:
    # The last token of an answer predicts nothing that is asked for, so it is never fed.
    return len(pairs[row[0]][0].prompt) + sum(len(pairs[number][0].answer) - 1 for number in row)


def _lines(lengths: Sequence[int], shared: bool) -> list[list[int]]:
    """First-fit decreasing: rows into the fewest lines no longer than the longest row."""
    order = sorted(range(len(lengths)), key=lambda r: -lengths[r])
    if not shared:
        return [[r] for r in range(len(lengths))]
    capacity = max(lengths)
    lines: list[list[int]] = []
    room: list[int] = []
    for r in order:
        for number, free in enumerate(room):
            if lengths[r] <= free:
                lines[number].append(r)
                room[number] -= lengths[r]
                break
        else:
            lines.append([r])
            room.append(capacity - lengths[r])
    return lines


def _write_row(pairs, row, r, number, at, width, ids, positions, row_of, branch, sources) -> int:
    """Writes one row at column `at` of line `number`; returns the column after it."""
    prompt = pairs[row[0]][0].prompt
    start, end = at, at + len(prompt)
    ids[number, start:end] = torch.tensor(prompt)
    positions[number, start:end] = torch.arange(len(prompt))
    for k, pair in enumerate(row, start=1):
        fed = pairs[pair][0].answer[:-1]
        answer_end = end + len(fed)
        ids[number, end:answer_end] = torch.tensor(fed, dtype=torch.long)
        positions[number, end:answer_end] = torch.arange(len(prompt), len(prompt) + len(fed))
        branch[number, end:answer_end] = k
        last_of_prompt = number * width + start + len(prompt) - 1
        sources[pair] = [last_of_prompt, *range(number * width + end, number * width + answer_end)]
        end = answer_end
    row_of[number, start:end] = r
    return end
