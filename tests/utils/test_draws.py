"""What is drawn depends on what it is drawn for and on nothing else: the same today, tomorrow and on every process."""

from __future__ import annotations

import random
from collections import Counter

import torch

from utils.draws import dice, draw, generator, permutation, torch_generator
from utils.fingerprint import text_hash


def test_a_generator_is_seeded_by_the_parts_in_order():
    assert generator("answer", 3, "forget", 7).random() == random.Random("answer/3/forget/7").random()
    assert generator("alone").random() == random.Random("alone").random()
    assert generator(42).random() == random.Random(42).random()  # released code seeds by the number alone
    assert dice(1, 2, 3, "label").random() == random.Random(draw(1, 2, 3, "label", 2**63)).random()


def test_a_generator_of_tensors_is_seeded_by_the_parts_in_order():
    naive = torch.Generator().manual_seed(int(text_hash("0/1/who"), 16) % 2**63)
    assert torch.equal(torch.rand(5, generator=torch_generator(0, 1, "who")), torch.rand(5, generator=naive))


def test_draws_are_pure_and_uniform_and_purposes_independent():
    values = [draw(0, 0, index, "retain", 5) for index in range(2000)]
    assert values == [draw(0, 0, index, "retain", 5) for index in range(2000)]
    assert all(350 < count < 450 for count in Counter(values).values()) and len(set(values)) == 5
    others = [
        [draw(*key, index, purpose, 5) for index in range(2000)]
        for key, purpose in (((1, 0), "retain"), ((0, 1), "retain"), ((0, 0), "template"))
    ]
    for other in others:  # agreement by chance: 1 in 5
        assert 320 < sum(a == b for a, b in zip(values, other, strict=True)) < 480
    assert draw(0, 0, 7, "retain", 5) == values[7]  # known today, known tomorrow


def test_epochs_visit_every_item_once_in_their_own_order():
    orders = [permutation(0, epoch, 50) for epoch in range(3)] + [permutation(1, 0, 50)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4 and permutation(0, 1, 50) == orders[1]
