"""Valid values of the dials that scripts share: key -> check, which refuses a wrong value in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers.training_args import OptimizerNames

from utils.checks import choose, did_you_mean, flag, is_number, is_whole, positive, require, whole
from utils.training.callbacks import minutes

Check = Callable[[str, Any], None]
OPTIMIZERS = tuple(name.value for name in OptimizerNames)


def one_of(*names: str) -> Check:
    """One of these names."""
    return partial(choose, valid=names)


def count(words: str = "", least: int = 1) -> Check:
    """A whole number of at least `least`. words: of what."""
    return partial(whole, least=least, words=words)


def described(test: Callable[[Any], bool], words: str) -> Check:
    """Anything else: a test, and what to write."""
    return lambda key, value: require(test(value), key, value, words)


def or_null(check: Check) -> Check:
    """The same, or null."""
    return lambda key, value: None if value is None else check(key, value)


def optimizer(key: str, value: Any) -> None:
    """Any that transformers knows, which are too many to be listed."""
    words = f"an optimizer of transformers, such as adamw_torch{did_you_mean(value, OPTIMIZERS)}"
    require(value in OPTIMIZERS, key, value, words)


FROM_ZERO = described(lambda v: is_number(v) and v >= 0, "a number from 0")

DIALS: dict[str, Check] = {
    "precision": one_of("auto", "float32", "bfloat16", "bfloat16_pure"),
    "compat": one_of("none", "tofu_original", "open_unlearning", "flat_released", "muse_released", "meow_released"),
    "seed": whole,
    "resume": flag,
    "overwrite": flag,
    "override_model": flag,
    "trust_oracle": flag,
    "show_prompts": whole,
    "cache_gib": or_null(described(lambda v: is_number(v) and v >= 0, "a number from 0, or null for no limit")),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.attn": one_of("auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"),
    "model.max_length": count("tokens of prompt and answer", 2),
    "lr": positive,
    "epochs": positive,
    "steps": or_null(count("optimizer steps, or null")),
    "batch_size": count("the global batch"),
    "per_device_batch_size": described(lambda v: v == "auto" or is_whole(v, 1), "auto, or a whole number from 1"),
    "weight_decay": FROM_ZERO,
    "warmup": described(
        lambda v: v == "epoch" or is_number(v) and v >= 0, "epoch, a number of steps, or a share of all steps below 1"
    ),
    "scheduler": one_of("linear", "cosine", "constant", "constant_with_warmup"),
    "optimizer": optimizer,
    "max_grad_norm": described(lambda v: is_number(v) and v >= 0, "a number from 0 (0: no clipping)"),
    "gradient_checkpointing": flag,
    "reference": one_of("auto", "adapter", "cached", "resident"),
    "reference_cache_gib": FROM_ZERO,
    "log_every": count("steps"),
    "checkpoint": described(
        lambda v: v in ("epoch", "none") or is_whole(v, 1) or minutes(v) is not None,
        "minutes such as 10m, epoch, none, or a number of steps",
    ),
    "checkpoints_kept": count("checkpoints"),
    "snapshots": described(lambda v: v == "none" or is_whole(v, 1), "none, or a whole number of steps from 1"),
    "report_to": one_of("none", "tensorboard", "wandb", "trackio"),
    "workers": whole,
    "rescore": flag,
    "generation_batch_size": count(),
    "tokens_per_batch": count(),
    "resamples": count(least=100),
    "reinforced.alpha": positive,
    **{f"{group}.lora.r": or_null(count()) for group in ("adapter", "model")},
    **{f"{group}.lora.alpha": or_null(positive) for group in ("adapter", "model")},
    **{
        f"{group}.lora.dropout": or_null(described(lambda v: is_number(v) and 0 <= v < 1, "a number from 0 and below 1"))
        for group in ("adapter", "model")
    },
}
