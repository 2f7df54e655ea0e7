"""Every dial takes the least that its sentence names, and nothing below: of what a sentence says, the number must be true."""

from __future__ import annotations

import pytest

from utils.runs.rules import DIALS

TINY = 1e-9
# key: least value that is right, greatest below it
LEAST = {
    "seed": (0, -1),
    "show_prompts": (0, -1),
    "cache_gib": (0, -TINY),
    "model.max_length": (2, 1),
    **dict.fromkeys(("lr", "model.lr.finetune", "model.lr.unlearn"), (TINY, 0)),
    **dict.fromkeys(("epochs", "model.epochs.finetune", "model.epochs.unlearn"), (TINY, 0)),
    "model.expects.vocab_size": (1, 0),
    "steps": (1, 0),
    "batch_size": (1, 0),
    "per_device_batch_size": (1, 0),
    "weight_decay": (0, -TINY),
    "warmup": (0, -TINY),
    "max_grad_norm": (0, -TINY),
    "reference_cache_gib": (0, -TINY),
    "log_every": (1, 0),
    "checkpoint": (1, 0),
    "checkpoints_kept": (1, 0),
    "snapshots": (1, 0),
    "workers": (0, -1),
    "generation_batch_size": (1, 0),
    "tokens_per_batch": (1, 0),
    "resamples": (100, 99),
    "reinforced.alpha": (TINY, 0),
    **{f"{group}.lora.r": (1, 0) for group in ("adapter", "model")},
    **{f"{group}.lora.alpha": (TINY, 0) for group in ("adapter", "model")},
    **{f"{group}.lora.dropout": (0, -TINY) for group in ("adapter", "model")},
}


@pytest.mark.parametrize("key", LEAST)
def test_the_least_is_right_and_what_lies_below_is_refused(key):
    least, below = LEAST[key]
    DIALS[key](key, least)
    with pytest.raises(ValueError, match=f"{key}={below}: write "):
        DIALS[key](key, below)
    with pytest.raises(ValueError, match=f"{key}=True: write "):
        DIALS[key](key, True)


def test_every_dial_with_a_least_value_is_here():
    """A dial that takes some number is told apart from one of words by trying a few."""

    def takes_numbers(key: str) -> bool:
        for number in (0, 0.5, 1, 2, 100):
            try:
                DIALS[key](key, number)
            except ValueError:
                continue
            return True
        return False

    assert {key for key in DIALS if takes_numbers(key)} - {"split"} == set(LEAST)  # a split may be called by a number


@pytest.mark.parametrize("group", ["adapter", "model"])
def test_all_may_drop_out_but_not_quite(group):
    key = f"{group}.lora.dropout"
    DIALS[key](key, 0.99)
    with pytest.raises(ValueError, match=f"{key}=1: write a number from 0 and below 1"):
        DIALS[key](key, 1)
