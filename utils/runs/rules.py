"""Valid values of the dials that every script shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers.training_args import OptimizerNames

from utils.checks import is_number, is_whole
from utils.training.callbacks import minutes

CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("auto", "float32", "bfloat16", "bfloat16_pure"),
    "compat": ("none", "tofu_original", "open_unlearning", "flat_released", "muse_released"),
    "reference": ("auto", "adapter", "cached", "resident"),
    "scheduler": ("linear", "cosine", "constant", "constant_with_warmup"),
    "report_to": ("none", "tensorboard", "wandb", "trackio"),
    "optimizer": tuple(name.value for name in OptimizerNames),
    "model.dtype": ("float32", "bfloat16"),
    "model.attn": ("auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"),
}


@dataclass(frozen=True)
class Valid:
    """The values that a dial may have: a test and the words for the message."""

    test: Callable[[Any], bool]
    words: str


def _or_null(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


RANK = Valid(_or_null(lambda v: is_whole(v, 1)), "a positive whole number")

ALPHA = Valid(_or_null(lambda v: is_number(v) and v > 0), "a positive number")

DROPOUT = Valid(_or_null(lambda v: is_number(v) and 0 <= v < 1), "a number from 0 and below 1")

RULES: dict[str, Valid] = {
    "lr": Valid(lambda v: is_number(v) and v > 0, "a positive number such as 1e-5"),
    "epochs": Valid(lambda v: is_number(v) and v > 0, "a positive number of passes over the data"),
    "batch_size": Valid(lambda v: is_whole(v, 1), "the global batch, a positive whole number"),
    "per_device_batch_size": Valid(lambda v: v == "auto" or is_whole(v, 1), "auto or a positive whole number"),
    "seed": Valid(lambda v: is_whole(v, 0), "a whole number from 0"),
    "weight_decay": Valid(lambda v: is_number(v) and v >= 0, "a number from 0"),
    "warmup": Valid(
        lambda v: v == "epoch" or is_number(v) and v >= 0, "epoch, a number of steps, or a share of all steps below 1"
    ),
    "max_grad_norm": Valid(lambda v: is_number(v) and v >= 0, "a number from 0 (0: no clipping)"),
    "gradient_checkpointing": Valid(lambda v: isinstance(v, bool), "true or false"),
    "resume": Valid(lambda v: isinstance(v, bool), "true or false"),
    "overwrite": Valid(lambda v: isinstance(v, bool), "true or false"),
    "rescore": Valid(lambda v: isinstance(v, bool), "true or false"),
    "steps": Valid(_or_null(lambda v: is_whole(v, 1)), "null or a positive number of optimizer steps"),
    "snapshots": Valid(lambda v: v == "none" or is_whole(v, 1), "none or a positive number of steps"),
    "checkpoint": Valid(
        lambda v: v in ("epoch", "none") or is_whole(v, 1) or minutes(v) is not None,
        "minutes such as 10m, epoch, none, or a number of steps",
    ),
    "log_every": Valid(lambda v: is_whole(v, 1), "a positive number of steps"),
    "workers": Valid(lambda v: is_whole(v, 0), "a whole number from 0"),
    "show_prompts": Valid(lambda v: is_whole(v, 0), "a whole number from 0"),
    "generation_batch_size": Valid(lambda v: is_whole(v, 1), "a positive whole number"),
    "tokens_per_batch": Valid(lambda v: is_whole(v, 1), "a positive whole number"),
    "resamples": Valid(lambda v: is_whole(v, 100), "a whole number from 100"),
    "reinforced.alpha": Valid(lambda v: is_number(v) and v > 0, "a positive number such as 1, 2, 4, 8 or 16"),
    "reference_cache_gib": Valid(lambda v: is_number(v) and v >= 0, "a number of GiB from 0"),
    "model.max_length": Valid(lambda v: is_whole(v, 2), "a number of tokens from 2"),
    **{f"{group}.lora.r": RANK for group in ("adapter", "model")},
    **{f"{group}.lora.alpha": ALPHA for group in ("adapter", "model")},
    **{f"{group}.lora.dropout": DROPOUT for group in ("adapter", "model")},
}
