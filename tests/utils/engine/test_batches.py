"""Batches by length: whole, longest first, never over the budget unless a text is by itself."""

from __future__ import annotations

import random

import pytest

from utils.engine.batches import batches_of, by_length
from utils.tokens.example import Example


@pytest.mark.parametrize(
    ("limits", "batches"),
    [
        ({}, [[1, 4, 0, 3, 2]]),
        ({"most": 2}, [[1, 4], [0, 3], [2]]),
        ({"budget": 20}, [[1, 4], [0, 3, 2]]),  # padded: 2 x 9, 3 x 5
        ({"budget": 17, "padded": False}, [[1], [4, 0], [3, 2]]),  # 9; 9 + 5; 5 + 1
        ({"budget": 8}, [[1], [4], [0], [3], [2]]),  # 9 does not fit at all; 2 x 5 is over
        ({"budget": 20, "most": 1}, [[1], [4], [0], [3], [2]]),
    ],
)
def test_batches_by_hand(limits, batches):
    assert by_length([5, 9, 1, 5, 9], **limits) == batches
    assert by_length([], **limits) == []


@pytest.mark.parametrize("padded", [True, False])
def test_every_text_is_in_one_batch_and_no_batch_is_over_the_budget(padded):
    chance = random.Random(0)
    for _ in range(50):
        sizes = [chance.randrange(1, 40) for _ in range(30)]
        batches = by_length(sizes, 60, 5, padded)
        places = [place for batch in batches for place in batch]
        assert places == sorted(range(30), key=lambda place: (-sizes[place], place))
        held = [sizes[batch[0]] * len(batch) if padded else sum(sizes[place] for place in batch) for batch in batches]
        assert max(held) <= 60 and max(map(len, batches)) <= 5
        for batch, tokens, following in zip(batches, held, batches[1:], strict=False):  # the next one did not fit
            assert len(batch) == 5 or tokens + (sizes[batch[0]] if padded else sizes[following[0]]) > 60


def test_answers_to_one_prompt_stay_together_and_the_prompt_counts_once():
    first, other = (1, 2, 3), (1, 2, 4, 5, 6, 7)
    examples = [Example(first, (8,)), Example(other, (8,)), Example(first, (8, 9)), Example(first, (9, 9, 9))]
    assert batches_of(examples, 9) == [[examples[0], examples[2], examples[3]], [examples[1]]]
    assert batches_of(examples, 16) == [[examples[0], examples[2], examples[3], examples[1]]]
    assert batches_of(examples, 1) == batches_of(examples, 9)


def test_only_texts_of_one_length_where_that_is_asked_for():
    assert by_length([3, 5, 3, 5, 5, 1], most=2, equal=True) == [[1, 3], [4], [0, 2], [5]]
