"""Valid values of the dials that scripts share: key -> check, which refuses a wrong value in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from utils.checks import (
    choose,
    did_you_mean,
    first_line,
    flag,
    is_number,
    is_whole,
    minutes,
    name,
    node,
    package,
    path,
    positive,
    require,
    text,
    whole,
)

Check = Callable[[str, Any], None]


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


def several(check: Check, words: str) -> Check:
    """A list of such values, which may be empty. words: what to write."""

    def listed(key: str, values: Any) -> None:
        require(isinstance(values, Sequence) and not isinstance(values, str), key, values, words)
        for value in values:
            check(key, value)

    return listed


def optimizer(key: str, value: Any) -> None:
    """Any that transformers knows, which are too many to be listed."""
    from transformers.training_args import OptimizerNames  # slow, and no evaluation has an optimizer

    names = [name.value for name in OptimizerNames]
    require(value in names, key, value, f"an optimizer of transformers, such as adamw_torch{did_you_mean(value, names)}")


def optimizer_there(key: str, value: Any) -> None:
    """Whether transformers can make it: many need a package of their own."""
    from transformers import Trainer, TrainingArguments

    try:
        Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(optim=value, use_cpu=True, report_to="none"))
    except (ImportError, ValueError) as error:
        raise ValueError(f"{key}={value}: transformers cannot make it ({first_line(error)}); use adamw_torch") from error


def kernel_there(key: str, value: Any) -> None:
    """Whether an attention kernel is installed."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    there = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    if value in there and not there[value]():
        raise ValueError(f"{key}={value}: needs the package flash-attn of that version, and a GPU; use {key}=auto")


def logger_there(key: str, value: Any) -> None:
    """Whether what reports go to is installed."""
    if value != "none":
        package(f"{key}={value}", value, value)


def quantisation_there(key: str, value: Any) -> None:
    """Whether models can be loaded in 4 bit."""
    if value == "qlora":
        package("adapter=qlora", "bitsandbytes", "bitsandbytes==0.50.2")


def launcher_there(key: str, value: Any) -> None:
    """Whether what shards the model is installed."""
    if value == "zero2":
        package("launcher=zero2", "deepspeed", "deepspeed")


def warmup(key: str, value: Any) -> None:
    """A share is below 1; from 1 it counts steps, which are whole."""
    fits = value == "epoch" or is_whole(value) or is_number(value) and 0 <= value < 1
    require(fits, key, value, "epoch, a whole number of steps, or a share of all steps below 1")


def text_or_texts(key: str, value: Any) -> None:
    """Names of layers, or a word that stands for some."""
    if isinstance(value, str):
        require(bool(value), key, value, "all-linear, or a list of names of layers")
    else:
        several(text, "all-linear, or a list of names of layers")(key, value)
        require(len(value) > 0, key, value, "all-linear, or a list of one name of a layer or more")


def epochs(key: str, value: Any) -> None:
    """More than anybody waits for are a slip of the pen."""
    positive(key, value)
    require(value <= LONGEST_TRAINING, key, value, f"a number above 0 and up to {LONGEST_TRAINING:g}")


FROM_ZERO = described(lambda v: is_number(v) and v >= 0, "a number from 0")
LONGEST_TRAINING = 1e6  # epochs

DIALS: dict[str, Check] = {
    # Nodes first, since others follow what stands in them; then what becomes part of a path.
    **dict.fromkeys(("model", "benchmark", "method", "adapter", "launcher", "probe", "measure", "reinforced"), node),
    **dict.fromkeys(("model.template", "model.expects", "model.lr", "model.epochs", "model.lora"), node),
    **dict.fromkeys(("model.architecture", "adapter.lora", "launcher.deepspeed", "launcher.fsdp"), or_null(node)),
    **dict.fromkeys(("model.name", "benchmark.name", "method.name", "probe.name"), name),
    "adapter.name": one_of("none", "lora", "qlora", "continue"),
    "launcher.name": one_of("auto", "zero2", "fsdp2"),
    "split": described(lambda v: str(v).isprintable() and "/" not in str(v), "the name of a split"),
    **dict.fromkeys(("data_root", "refusals", "before"), path),
    **dict.fromkeys(("out", "cache", "model.path", "model.tokenizer", "oracle", "from_logs", "reinforced.path"), or_null(path)),
    "null_runs": several(path, "a list of run folders"),
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
    "model.trust_remote_code": flag,
    "model.expects.model_type": or_null(text),
    "model.expects.vocab_size": or_null(count()),
    "model.max_length": count("tokens of prompt and answer", 2),
    **dict.fromkeys(("lr", "model.lr.finetune", "model.lr.unlearn"), positive),
    **dict.fromkeys(("epochs", "model.epochs.finetune", "model.epochs.unlearn"), epochs),
    "steps": or_null(count("optimizer steps, or null")),
    "batch_size": count("the global batch"),
    "per_device_batch_size": described(lambda v: v == "auto" or is_whole(v, 1), "auto, or a whole number from 1"),
    "weight_decay": FROM_ZERO,
    "warmup": warmup,
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
    "reinforced.name": text,
    "reinforced.alpha": positive,
    **{f"{group}.lora.r": or_null(count()) for group in ("adapter", "model")},
    **{f"{group}.lora.alpha": or_null(positive) for group in ("adapter", "model")},
    "adapter.lora.target_modules": or_null(text_or_texts),
    "model.lora.target_modules": or_null(text_or_texts),
    **{
        f"{group}.lora.dropout": or_null(described(lambda v: is_number(v) and 0 <= v < 1, "a number from 0 and below 1"))
        for group in ("adapter", "model")
    },
}

# What this machine lacks; asked last, of settings that would work elsewhere.
INSTALLED: dict[str, Check] = {
    "optimizer": optimizer_there,
    "model.attn": kernel_there,
    "report_to": logger_there,
    "launcher.name": launcher_there,
    "adapter.name": quantisation_there,
}
