"""A prompt and its answer as token ids."""

from __future__ import annotations

import pytest

from utils.tokens.example import common_length


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        (([1, 2, 3], [1, 2]), 2),
        (([1, 2, 3], (1, 2, 3)), 3),
        (([1, 2, 3], [4]), 0),
        (([1], []), 0),
        (([1, 2, 9], [1, 2, 3, 4], [1, 2, 3], [1, 7]), 1),
        (([5, 6],), 2),
    ],
)
def test_leading_ids_that_all_share(sequences, length):
    assert common_length(*sequences) == length == common_length(*sequences[::-1])
