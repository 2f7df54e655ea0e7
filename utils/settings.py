"""Checks the settings before anything is loaded: which key, which value, what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers.training_args import OptimizerNames

from data.benchmark import Benchmark
from data.probes import Probe, Unchanged
from data.prompts import Template
from data.requests import Request
from data.sources import forget_files
from data.streams import Prepare
from losses.protocol import STATISTICS, STREAMS, Loss
from metrics.measure import Measure
from utils import ROOT
from utils.batching import plan_batch
from utils.callbacks import minutes
from utils.cli import nearest_names
from utils.combined import check_combined
from utils.distributed import world_size
from utils.fingerprint import settings_hash
from utils.hooks import Finish, Region
from utils.models import check_quantisation, is_adapter, model_folder
from utils.runs import NOT_PART_OF_THE_RESULT

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
class Rule:
    """A dial's valid values: a test and the words for the message."""

    test: Callable[[Any], bool]
    words: str


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _or_null(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


RANK = Rule(_or_null(lambda v: _is_int(v, 1)), "a positive whole number")
ALPHA = Rule(_or_null(lambda v: _is_number(v) and v > 0), "a positive number")
DROPOUT = Rule(_or_null(lambda v: _is_number(v) and 0 <= v < 1), "a number from 0 and below 1")

RULES: dict[str, Rule] = {
    "lr": Rule(lambda v: _is_number(v) and v > 0, "a positive number such as 1e-5"),
    "epochs": Rule(lambda v: _is_number(v) and v > 0, "a positive number of passes over the data"),
    "batch_size": Rule(lambda v: _is_int(v, 1), "the global batch, a positive whole number"),
    "per_device_batch_size": Rule(lambda v: v == "auto" or _is_int(v, 1), "auto or a positive whole number"),
    "seed": Rule(lambda v: _is_int(v, 0), "a whole number from 0"),
    "weight_decay": Rule(lambda v: _is_number(v) and v >= 0, "a number from 0"),
    "warmup": Rule(
        lambda v: v == "epoch" or _is_number(v) and v >= 0, "epoch, a number of steps, or a share of all steps below 1"
    ),
    "max_grad_norm": Rule(lambda v: _is_number(v) and v >= 0, "a number from 0 (0: no clipping)"),
    "gradient_checkpointing": Rule(lambda v: isinstance(v, bool), "true or false"),
    "resume": Rule(lambda v: isinstance(v, bool), "true or false"),
    "overwrite": Rule(lambda v: isinstance(v, bool), "true or false"),
    "rescore": Rule(lambda v: isinstance(v, bool), "true or false"),
    "steps": Rule(_or_null(lambda v: _is_int(v, 1)), "null or a positive number of optimizer steps"),
    "snapshots": Rule(lambda v: v == "none" or _is_int(v, 1), "none or a positive number of steps"),
    "checkpoint": Rule(
        lambda v: v in ("epoch", "none") or _is_int(v, 1) or minutes(v) is not None,
        "minutes such as 10m, epoch, none, or a number of steps",
    ),
    "log_every": Rule(lambda v: _is_int(v, 1), "a positive number of steps"),
    "workers": Rule(lambda v: _is_int(v, 0), "a whole number from 0"),
    "show_prompts": Rule(lambda v: _is_int(v, 0), "a whole number from 0"),
    "generation_batch_size": Rule(lambda v: _is_int(v, 1), "a positive whole number"),
    "tokens_per_batch": Rule(lambda v: _is_int(v, 1), "a positive whole number"),
    "resamples": Rule(lambda v: _is_int(v, 100), "a whole number from 100"),
    "whp.alpha": Rule(lambda v: _is_number(v) and v > 0, "a positive number such as 1, 2, 4, 8 or 16"),
    "reference_cache_gib": Rule(lambda v: _is_number(v) and v >= 0, "a number of GiB from 0"),
    "model.max_length": Rule(lambda v: _is_int(v, 2), "a number of tokens from 2"),
    **{f"{group}.lora.r": RANK for group in ("adapter", "model")},
    **{f"{group}.lora.alpha": ALPHA for group in ("adapter", "model")},
    **{f"{group}.lora.dropout": DROPOUT for group in ("adapter", "model")},
}
ABSENT = object()


class SettingsError(ValueError):
    """A setting is not valid; the message names key, value and remedy."""


@dataclass(frozen=True)
class Settings:
    """Checked settings: the config, and the objects that its nodes describe.

    template, max_length: how prompts are written; the model's, unless the benchmark has its own.
    """

    cfg: DictConfig
    benchmark: Benchmark
    template: Template
    max_length: int
    loss: Loss | None = None
    prepare: Prepare | None = None
    region: Region | None = None
    finish: Finish | None = None
    measures: tuple[Measure, ...] = ()
    probe: Probe = Unchanged()  # noqa: RUF009  (frozen)

    @property
    def requests(self) -> list[Request]:
        """What an evaluation asks: the benchmark's questions, and those of the measures, as the probe asks them."""
        split = self.cfg.split
        added = [request for measure in self.measures for request in measure.requests(self.benchmark, split)]
        return self.probe.requests([*self.benchmark.requests(split), *added], self.benchmark)

    @property
    def oracle_requests(self) -> list[Request]:
        """What the retain oracles are asked, in the same way."""
        return self.probe.requests(self.benchmark.reference_requests(self.cfg.split), self.benchmark)

    @property
    def statistics(self) -> tuple[str, ...]:
        """What an evaluation scores for every answer token."""
        names = [*self.benchmark.statistics, *(name for measure in self.measures for name in measure.statistics)]
        return tuple(dict.fromkeys(names))


def check_training(cfg: DictConfig, script: str) -> Settings:
    """Settings of finetune.py or unlearn.py. Raises SettingsError, or the ValueError of the part that refuses."""
    settings = _check(cfg, script)
    loss = build(cfg.method.loss, "method.loss")
    memorises = "train" in loss.needs
    if memorises != (script == "finetune"):
        other = "finetune.py" if memorises else "unlearn.py"
        raise SettingsError(f"method={cfg.method.name}: belongs to {other}, not to {script}.py")
    _check_needs(cfg, loss)
    if script == "unlearn":
        settings.benchmark.check_forget_split(cfg.split)
        if cfg.model.path is None:
            raise SettingsError(
                f"model.path=null: unlearning starts from a trained model; make one with: python finetune.py "
                f"model={cfg.model.name} benchmark={cfg.benchmark.name} split=full out=runs/target, "
                "then add model.path=runs/target"
            )
    if cfg.reference == "adapter" and cfg.adapter.name == "none":
        raise SettingsError("reference=adapter: there is no adapter to switch off; use reference=cached, or adapter=lora")
    if cfg.launcher.name != "auto" and cfg.reference == "resident":
        raise SettingsError("reference=resident: a second model is not sharded by the launcher; use reference=cached")
    _check_adapter(cfg)
    if cfg.method.get("reference_dropout", False) and cfg.reference == "cached":
        raise SettingsError(
            "reference=cached: with method.reference_dropout=true the reference's values change at every step; use "
            "reference=auto, or method.reference_dropout=false"
        )
    plan_batch(cfg.batch_size, world_size(), cfg.per_device_batch_size, largest=1)
    return replace(settings, loss=loss, **_hooks(cfg))


def check_evaluation(cfg: DictConfig) -> Settings:
    """Settings of evaluate.py. Raises SettingsError."""
    settings = _check(cfg, "evaluate")
    if cfg.retain_logs is not None and cfg.from_logs is None:
        raise SettingsError(f"retain_logs={cfg.retain_logs}: goes with from_logs=FILE; for run folders use reference_run=DIR")
    for key in ("from_logs", "retain_logs"):
        if cfg[key] is not None and not Path(cfg[key]).is_file():
            raise SettingsError(f"{key}={cfg[key]}: there is no such file")
    if cfg.from_logs is not None and cfg.whp.path is not None:
        raise SettingsError(f"whp.path={cfg.whp.path}: not with from_logs, which needs no model; leave one of them out")
    if cfg.from_logs is not None and cfg.null_runs:
        raise SettingsError(f"null_runs=[{','.join(map(str, cfg.null_runs))}]: not with from_logs; leave it out")
    if cfg.from_logs is not None and cfg.reference_run is not None:
        raise SettingsError(f"reference_run={cfg.reference_run}: not with from_logs; give retain_logs=FILE instead")
    measures = tuple(build(node, f"measure={name}") for name, node in cfg.measure.items())
    if cfg.from_logs is not None and measures:
        raise SettingsError(f"measure=[{','.join(cfg.measure)}]: not with from_logs, which holds no token scores")
    probe = build(cfg.probe, f"probe={cfg.probe.name}")
    if cfg.from_logs is not None and probe.name != "none":
        raise SettingsError(f"probe={probe.name}: not with from_logs, whose questions were asked already; leave it out")
    if cfg.from_logs is None:
        settings.benchmark.check_forget_split(cfg.split)
        probe.check(settings.benchmark, cfg.split)
        for measure in measures:
            measure.check(settings.benchmark, cfg.split)
        if not cfg.rescore:
            check_combined(cfg)
        if not cfg.rescore and cfg.model.path is None and cfg.model.architecture is None:
            raise SettingsError(f"model={cfg.model.name}: set model.path to what is to be evaluated")
    return replace(settings, measures=measures, probe=probe)


def build(node: DictConfig, key: str) -> Any:
    """The object of a `_target_` node. Raises SettingsError with the object's own words, or naming the unknown argument."""
    try:
        return instantiate(node)
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise SettingsError(f"{key}: {str(cause).strip().splitlines()[0]}") from error


def _hooks(cfg: DictConfig) -> dict[str, Any]:
    """The method's prepare, region and finish, each None where it has none."""
    nodes = {name: cfg.method.get(name) for name in ("prepare", "region", "finish")}
    hooks = {name: None if node is None else build(node, f"method.{name}") for name, node in nodes.items()}
    for name in ("region", "finish"):
        if hooks[name] is not None:
            hooks[name].check(cfg)
    if hooks["finish"] is not None and cfg.launcher.name != "auto":
        raise SettingsError(
            f"launcher={cfg.launcher.name}: method={cfg.method.name} changes weights afterwards; use launcher=auto"
        )
    return hooks


def _check(cfg: DictConfig, script: str) -> Settings:
    forget_files()
    for key, valid in CHOICES.items():
        value = OmegaConf.select(cfg, key, default=ABSENT)
        if value is not ABSENT and str(value) not in valid:
            close = nearest_names(str(value), valid)
            hint = f"Did you mean {close[0]}?" if close else f"Valid are {', '.join(valid)}."
            raise SettingsError(f"{key}={value}: not a valid value. {hint}")
    for key, rule in RULES.items():
        value = OmegaConf.select(cfg, key, default=ABSENT)
        if value is not ABSENT and not rule.test(value):
            raise SettingsError(f"{key}={value}: must be {rule.words}")
    template = build(OmegaConf.create({"_target_": "data.prompts.Template", **cfg.model.template}), "model.template")
    benchmark = build(cfg.benchmark, f"benchmark={cfg.benchmark.name}")
    if cfg.compat not in benchmark.compats:
        valid = ", ".join(benchmark.compats)
        raise SettingsError(f"compat={cfg.compat}: means nothing on benchmark={cfg.benchmark.name}; write one of {valid}")
    template, max_length = benchmark.prompts(script, template, cfg.model.max_length)
    if cfg.out is None:
        cfg.out = default_folder(cfg, script)
    return Settings(cfg, benchmark, template, max_length)


def _check_adapter(cfg: DictConfig) -> None:
    adapter = cfg.adapter.name
    if adapter == "none":
        return
    if cfg.model.path is not None and adapter == "continue" and not is_adapter(model_folder(cfg.model.path)):
        raise SettingsError(
            f"adapter=continue: model.path={cfg.model.path} holds no adapter; use adapter=lora to begin one, or adapter=none"
        )
    if cfg.model.path is None:
        raise SettingsError(
            f"adapter={adapter}: model.path=null draws random weights, and an adapter is kept without the weights under it; "
            "use adapter=none, or set model.path"
        )
    if adapter == "qlora":
        check_quantisation()
        if is_adapter(model_folder(cfg.model.path)):
            raise SettingsError(f"adapter=qlora: model.path={cfg.model.path} holds an adapter, not a model; use adapter=lora")


def _check_needs(cfg: DictConfig, loss: Loss) -> None:
    for stream, names in loss.needs.items():
        if stream not in STREAMS:
            raise SettingsError(f"method={cfg.method.name}: unknown stream {stream}; streams are {', '.join(STREAMS)}")
        for name in names:
            if name not in STATISTICS:
                raise SettingsError(f"method={cfg.method.name}: unknown statistic {name}; statistics are {', '.join(STATISTICS)}")
    if "template" in loss.needs:
        for key, valid in {"template": ("refusal", "normal"), "template_policy": ("per_access", "fixed")}.items():
            value = cfg.method.get(key)
            if value not in valid:
                raise SettingsError(f"method.{key}={value}: write one of {', '.join(valid)}")
        if cfg.method.template == "refusal" and not resolve(cfg.templates).is_file():
            raise SettingsError(f"templates={cfg.templates}: there is no such file; give a text file, one refusal per line")


def default_folder(cfg: DictConfig, script: str) -> str:
    """Where a run lies if `out` is not given: a readable name and a hash of everything that changes the result."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    parts = [cfg.benchmark.name, str(cfg.split), cfg.model.name]
    if "method" in cfg:
        parts.append(cfg.method.name)
    return f"runs/{script}/{'_'.join(parts)}-{settings_hash(plain, NOT_PART_OF_THE_RESULT)[:8]}"


def resolve(path: str) -> Path:
    """A path as the user wrote it, or relative to the project's root if that is where it exists."""
    plain = Path(path).expanduser()
    return plain if plain.exists() or not (ROOT / path).exists() else ROOT / path
