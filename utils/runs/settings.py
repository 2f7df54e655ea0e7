"""Checks the settings before anything is loaded: which key, which value, what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from utils.checks import did_you_mean_or_all
from utils.distributed import world_size
from utils.engine.loss import check_needs
from utils.evaluation.questions import Questions
from utils.fingerprint import settings_hash
from utils.items.benchmark import Benchmark
from utils.reading import forget_files
from utils.runs.rules import CHOICES, RULES
from utils.runs.run import NOT_PART_OF_THE_RESULT
from utils.tokens.prompts import Template
from utils.training.batching import plan_batch
from utils.training.method import TEMPLATE, Method, Stop, Templates
from utils.weights.models import check_quantisation, is_adapter, model_folder
from utils.weights.reinforced import check_combined

ABSENT = object()
PARTS = ("loss", "prepare", "region", "finish")  # of a method, each a constructor call


class SettingsError(ValueError):
    """A setting is not valid; the message names key, value and remedy."""


@dataclass(frozen=True)
class Settings:
    """Checked settings: the config, and the objects that its nodes describe.

    template, max_length: how prompts are written; the model's, unless the benchmark has its own. method: of a training.
    """

    cfg: DictConfig
    benchmark: Benchmark
    template: Template
    max_length: int
    method: Method | None = None


def check_training(cfg: DictConfig, script: str) -> Settings:
    """Settings of finetune.py or unlearn.py. Raises SettingsError, or the ValueError of the part that refuses."""
    settings = _check(cfg, script)
    method = _method(cfg.method)
    if method.memorises != (script == "finetune"):
        other = "finetune.py" if method.memorises else "unlearn.py"
        raise SettingsError(f"method={method.name}: belongs to {other}, not to {script}.py")
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
    method.check(cfg)
    plan_batch(cfg.batch_size, world_size(), cfg.per_device_batch_size, largest=1)
    return replace(settings, method=method)


def check_evaluation(cfg: DictConfig) -> tuple[Settings, Questions]:
    """Settings of evaluate.py, and what it asks. Raises SettingsError, or the ValueError of the part that refuses."""
    settings = _check(cfg, "evaluate")
    benchmark = settings.benchmark
    measures = tuple(build(node, f"measure={name}") for name, node in cfg.measure.items())
    questions = Questions(benchmark, cfg.split, measures, build(cfg.probe, f"probe={cfg.probe.name}"))
    if cfg.from_logs is not None:
        _check_logs(cfg)
        return settings, questions
    benchmark.check_forget_split(cfg.split)
    questions.check()
    if not cfg.rescore:
        check_combined(cfg)
        if cfg.model.path is None and cfg.model.architecture is None:
            raise SettingsError(f"model={cfg.model.name}: set model.path to what is to be evaluated")
    return settings, questions


def _check_logs(cfg: DictConfig) -> None:
    """Raises SettingsError for logs that are not there, and for what would need a model or its token scores besides."""
    logs = {"from_logs": cfg.from_logs, **({} if cfg.oracle in (None, "none") else {"oracle": cfg.oracle})}
    for key, path in logs.items():
        if not Path(path).is_file():
            raise SettingsError(f"{key}={path}: there is no such file; with from_logs both are logs of the benchmark's own code")
    nulls, probe = cfg.null_runs, cfg.probe.name
    for given, shown, why in (
        (cfg.reinforced.path, f"reinforced.path={cfg.reinforced.path}", "which needs no model"),
        (nulls, f"null_runs=[{','.join(map(str, nulls))}]", "which compares with one oracle"),
        (cfg.measure, f"measure=[{','.join(cfg.measure)}]", "which holds no token scores"),
        (probe != "none", f"probe={probe}", "whose questions were asked already"),
    ):
        if given:
            raise SettingsError(f"{shown}: not with from_logs, {why}; leave it out")


def build(node: DictConfig, key: str) -> Any:
    """The object of a `_target_` node. Raises SettingsError with the object's own words, or naming the unknown argument."""
    try:
        return instantiate(node)
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise SettingsError(f"{key}: {str(cause).strip().splitlines()[0]}") from error


def _method(node: DictConfig) -> Method:
    """The method that a file of config/method describes. Raises SettingsError."""
    parts = {name: build(part, f"method.{name}") for name in PARTS if (part := node.get(name)) is not None}
    try:
        needs = parts["loss"].needs
        check_needs(needs)
        templates = Templates(node.get("template"), node.get("template_policy")) if TEMPLATE in needs else None
        stop = Stop(**node.stop) if node.get("stop") is not None else None
        return Method(node.name, templates=templates, stop=stop, reference_dropout=node.get("reference_dropout", False), **parts)
    except ValueError as error:
        raise SettingsError(f"method={node.name}: {error}") from error


def _check(cfg: DictConfig, script: str) -> Settings:
    forget_files()
    for key, valid in CHOICES.items():
        value = OmegaConf.select(cfg, key, default=ABSENT)
        if value is not ABSENT and str(value) not in valid:
            raise SettingsError(f"{key}={value}: not a valid value{did_you_mean_or_all(value, valid)}")
    for key, rule in RULES.items():
        value = OmegaConf.select(cfg, key, default=ABSENT)
        if value is not ABSENT and not rule.test(value):
            raise SettingsError(f"{key}={value}: must be {rule.words}")
    template = build(OmegaConf.create({"_target_": "utils.tokens.prompts.Template", **cfg.model.template}), "model.template")
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


def default_folder(cfg: DictConfig, script: str) -> str:
    """Where a run lies if `out` is not given: a readable name and a hash of everything that changes the result."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    parts = [cfg.benchmark.name, str(cfg.split), cfg.model.name]
    if "method" in cfg:
        parts.append(cfg.method.name)
    return f"runs/{script}/{'_'.join(parts)}-{settings_hash(plain, NOT_PART_OF_THE_RESULT)[:8]}"
