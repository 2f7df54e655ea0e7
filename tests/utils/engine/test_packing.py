"""Packing: every answer token sees its own prompt and the earlier tokens of its own answer, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models import random_examples
from utils.engine.packing import Packed, pack
from utils.tokens.example import IGNORED, Example

A, B, C = Example((5, 6, 7), (8, 9, 2)), Example((5, 6, 7), (8, 4, 4, 2)), Example((3,), (9, 2))
BATCHES = {
    "two answers share a prompt": {"forget": [A], "template": [B]},
    "one token is all": {"train": [Example((5,), (6,))]},
    "the same pair twice": {"forget": [A, A], "retain": [A]},
    "an answer goes on in another prompt": {"forget": [Example((5,), (6, 7, 8))], "retain": [Example((5, 6), (7, 9))]},
    "a chat's common beginning": {"x": [Example((1, 2, 3, 4, n), (n, 9, 2)) for n in range(5, 12)]},
    "random, all prompts differ": {"forget": random_examples(9, 30, 0), "retain": random_examples(7, 30, 1)},
    "random, few prompts": {"scores": random_examples(24, 12, 2, prompts=4)},
}
layouts = pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
batches = pytest.mark.parametrize("streams", BATCHES.values(), ids=BATCHES.keys())


def visible(packed: Packed) -> torch.Tensor:
    """(L, W, W) bool: query, key; read from what the model gets."""
    mask = packed.attention_mask(torch.float32)
    if packed.shared:
        assert mask.shape == (*packed.input_ids.shape[:1], 1, *packed.input_ids.shape[1:] * 2)
        assert set(mask.unique().tolist()) <= {0.0, torch.finfo(torch.float32).min}
        return mask[:, 0] == 0
    return mask.bool()[:, None, :] & torch.ones(mask.shape[1], mask.shape[1]).tril().bool()


@layouts
@batches
def test_each_answer_token_sees_its_own_past_alone(streams, shared):
    """Brute force: what a source position attends to, in order of position, is the prompt and the answer so far."""
    packed = pack(streams, pad=0, shared=shared)
    seen = visible(packed)
    width = packed.input_ids.shape[1]
    token = 0
    for name, examples in streams.items():
        assert packed.streams[name] == (token, tuple(len(e.answer) for e in examples))
        for example in examples:
            for earlier, label in enumerate(example.answer):
                line, column = divmod(int(packed.source[token]), width)
                keys = seen[line, column].nonzero()[:, 0]
                positions = packed.position_ids[line, keys] if shared else keys
                assert positions.tolist() == list(range(len(example.prompt) + earlier))
                assert tuple(packed.input_ids[line, keys].tolist()) == example.prompt + example.answer[:earlier]
                assert packed.labels[token] == label
                token += 1
    assert packed.source.shape == packed.labels.shape == (token,)


@layouts
def test_labels_replace_what_is_predicted_not_what_is_fed(shared):
    other = replace(A, labels=(4, IGNORED, 9))
    packed, plain = (pack({"x": [example, B]}, pad=0, shared=shared) for example in (other, A))
    assert torch.equal(packed.input_ids, plain.input_ids) and torch.equal(packed.reach, plain.reach)
    assert packed.labels.tolist() == [4, 9, *B.answer] and packed.streams["x"] == (0, (2, 4))
    assert packed.source.tolist() == [plain.source[index].item() for index in (0, 2, 3, 4, 5, 6)]


def test_a_stream_may_hold_nothing():
    packed = pack({"forget": [], "retain": [A, C]}, pad=0)
    assert packed.streams == {"forget": (0, ()), "retain": (0, (3, 2))}
    values, mask = packed.tabulate("forget", torch.zeros(5))
    assert values.shape == mask.shape == (0, 0)


@batches
def test_no_softmax_runs_over_nothing(streams):
    packed = pack(streams, pad=0)
    assert visible(packed).any(dim=-1).all()


def test_common_beginnings_are_stored_once():
    packed = pack({"forget": [A, B], "retain": [C]}, pad=0)
    assert sorted(packed.input_ids[packed.reach > 0].tolist()) == sorted([5, 6, 7, 8, 9, 4, 4, 3, 9])


def test_last_answer_token_is_never_fed():
    """2 predicts nothing that is asked for."""
    assert 2 not in pack({"forget": [A, B]}, pad=0).input_ids


def test_plain_layout_is_one_pair_per_line_padded_on_the_right():
    packed = pack({"forget": [A], "template": [B, C]}, pad=11, shared=False)
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 11], [5, 6, 7, 8, 4, 4], [3, 9, 11, 11, 11, 11]]
    assert packed.attention_mask(torch.float32).tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6, [1, 1, 0, 0, 0, 0]]


def test_pad_token_inside_a_text_is_not_padding():
    """Masks go by length: the pad id (often EOS) may stand in prompts and answers."""
    example = Example((0, 5, 0), (0, 6, 0))
    for shared in (True, False):
        packed = pack({"x": [example, C]}, pad=0, shared=shared)
        line, column = divmod(int(packed.source[2]), packed.input_ids.shape[1])
        assert visible(packed)[line, column].sum() == 5


@layouts
def test_hidden_token_is_seen_by_no_other(shared):
    example, short = Example((5, 9, 6), (7, 9, 8, 2)), Example((5,), (6,))
    packed = pack({"x": [example, short]}, pad=0, shared=shared, hide=9)
    seen, width = visible(packed), packed.input_ids.shape[1]
    found = []
    for source in packed.source[:4]:
        line, column = divmod(int(source), width)
        found.append(packed.input_ids[line, seen[line, column].nonzero()[:, 0]].tolist())
    assert found == [[5, 6], [5, 6, 7], [5, 6, 7], [5, 6, 7, 8]]


def test_lines_are_filled_evenly():
    """Rows of 100, 60 + 40 and 50 + 50 tokens: three lines without padding."""
    rows = [Example((n,) * length, (2,)) for n, length in zip(range(20, 25), (50, 40, 100, 50, 60), strict=True)]
    packed = pack({"x": rows}, pad=0)
    assert packed.input_ids.shape == (3, 100) and (packed.reach > 0).all()


def test_long_rows_are_not_joined():
    """A line twice as wide costs more attention than the padding it saves."""
    rows = [Example((n,) * 900, (2,)) for n in range(20, 24)]
    assert pack({"x": rows}, pad=0).input_ids.shape == (4, 900)


def test_every_row_on_one_line():
    """Answers of one prompt stay together, however many there are."""
    packed = pack({"x": [Example((5, 6), (n, 7, 2)) for n in range(10, 30)]}, pad=0)
    assert packed.input_ids.shape == (1, 2 + 20 * 2)


@layouts
@pytest.mark.parametrize("seed", range(5))
def test_layout_never_needs_more_room_than_one_pair_per_line(seed, shared):
    examples = random_examples(16, 20, seed, prompts=9)
    packed = pack({"x": examples}, pad=0, shared=shared)
    assert packed.input_ids.numel() <= 16 * max(len(e.prompt) + len(e.answer) - 1 for e in examples)


@pytest.mark.parametrize("example", [Example((), (5,)), Example((5,), ())], ids=["no prompt", "no answer"])
def test_examples_without_tokens_are_refused(example):
    with pytest.raises(ValueError, match="stream retain: an example needs prompt and answer tokens"):
        pack({"forget": [A], "retain": [example]}, pad=0)


def test_batch_without_examples_is_refused():
    with pytest.raises(ValueError, match="nothing to pack"):
        pack({"forget": [], "retain": []}, pad=0)


def test_tabulate_lays_one_stream_out_by_example():
    packed = pack({"forget": [A], "retain": [C, B]}, pad=0)
    values = torch.arange(9.0)  # 3 + 2 + 4 answer tokens
    table, mask = packed.tabulate("retain", values)
    assert table.tolist() == [[3.0, 4.0, 0.0, 0.0], [5.0, 6.0, 7.0, 8.0]]
    assert mask.tolist() == [[True, True, False, False], [True] * 4]


def test_moves_as_a_whole():
    packed = pack({"forget": [A, B]}, pad=0, hide=3)
    there = packed.to("meta")
    tensors = {name: value for name, value in vars(there).items() if isinstance(value, torch.Tensor)}
    assert tensors and all(value.device.type == "meta" for value in tensors.values())
    assert (there.streams, there.shared, there.examples, there.hide) == (packed.streams, True, packed.examples, 3)


@layouts
def test_padding_that_is_asked_about_is_seen_by_nothing(shared):
    """Padding sees the text before it; the same id within a text, and at the same place of another text, stays visible."""
    padded, other = Example((5,), (6, 0, 7, 0, 0, 0), padding=3), Example((5,), (6, 0, 7, 0, 8))
    streams = {"rows": [padded, padded], "forget": [other, Example((5,), (6, 0, 7, 0, 0, 0))]}
    packed = pack(streams, pad=0, shared=shared)
    width, token = packed.input_ids.shape[1], 0
    for example in [example for examples in streams.values() for example in examples]:
        ids = (example.prompt + example.answer)[: 4 if example.padding else None]
        for place in range(len(example.answer)):
            line, column = divmod(int(packed.source[token]), width)
            keys = visible(packed)[line, column].nonzero()[:, 0]
            assert tuple(packed.input_ids[line, keys].tolist()) == ids[: place + 1]
            assert not shared or int(packed.position_ids[line, column]) == place
            token += 1
    if shared:
        assert packed.input_ids.numel() == 4 + 2 + 3  # the text, its padding, and what others go on with
