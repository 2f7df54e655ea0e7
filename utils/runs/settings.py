"""Checks the settings before anything is loaded: which key, which value, what to do.

What only a training has, or a model, is imported where it is checked: an evaluation of files gets by without torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from utils.checks import declared, first_line, name, node
from utils.distributed import device, world_size
from utils.evaluation.questions import Questions
from utils.items.benchmark import Benchmark
from utils.runs.capsule import PER_DEVICE, result_hash
from utils.runs.cli import CONFIG, compose_settings
from utils.runs.lineage import Origin
from utils.runs.rules import DIALS, INSTALLED, Check
from utils.secrets import without_secrets
from utils.tokens.prompts import Template
from utils.weights.claims import check_adapter_file, check_expected, local_config
from utils.weights.folders import check_combined, is_adapter, model_folder

if TYPE_CHECKING:
    from utils.training.method import Method

ABSENT = object()
HYDRAS = ("_convert_", "_recursive_", "_partial_", "_args_")  # options of a node that are none of its class


class SettingsError(ValueError):
    """A setting is not valid; the message names key, value and remedy."""


@dataclass(frozen=True)
class TrainingSettings:
    """Checked settings of finetune.py and unlearn.py: the config, and the objects that its nodes describe."""

    cfg: DictConfig
    benchmark: Benchmark
    method: Method

    @property
    def counts(self) -> frozenset[str]:
        """Dials that change the result of this run, although they do not change that of most (`Run.open`)."""
        explicit = self.method.loss.micro_batch_dependent and self.cfg[PER_DEVICE] != "auto"
        return frozenset({PER_DEVICE} if explicit else ())


def check_training(cfg: DictConfig, script: str) -> TrainingSettings:
    """Settings of finetune.py or unlearn.py. Raises SettingsError, or the ValueError of the part that refuses."""
    from utils.training.batching import plan_batch

    benchmark = _check(cfg)
    method = _method(cfg.method)
    settings = TrainingSettings(cfg, benchmark, method)
    _set_folder(cfg, script, settings.counts)
    if method.memorises != (script == "finetune"):
        other = "finetune.py" if method.memorises else "unlearn.py"
        raise SettingsError(f"method={method.name}: belongs to {other}, not to {script}.py")
    if script == "unlearn":
        benchmark.check_forget_split(cfg.split)
        if cfg.model.path is None:
            raise SettingsError(
                f"model.path=null: unlearning starts from a trained model; make one with: python finetune.py "
                f"model={cfg.model.name} benchmark={cfg.benchmark.name} split=full out=runs/target, "
                "then add model.path=runs/target"
            )
        if method.needs_retain and benchmark.lacks_retain:
            others = ", ".join(_methods_of_forget_rows())
            raise SettingsError(
                f"method={method.name}: needs rows to keep, and there are none; {benchmark.lacks_retain}; or take a method "
                f"that needs none: {others}"
            )
    if cfg.model.path is None and cfg.model.architecture is None:
        raise SettingsError("model.path=null: there is no model.architecture to draw weights for either; set model.path")
    _check_tokenizer(cfg)
    if cfg.reference == "adapter" and cfg.adapter.name == "none":
        raise SettingsError("reference=adapter: there is no adapter to switch off; use reference=cached, or adapter=lora")
    if cfg.launcher.name == "fsdp2" and world_size() == 1:
        raise SettingsError(
            "launcher=fsdp2: shards a model over several processes; start with torchrun --nproc_per_node=N, or leave launcher out"
        )
    if cfg.launcher.name == "fsdp2" and device().type == "cpu":
        raise SettingsError("launcher=fsdp2: shards a model over GPUs, and there is none here; leave launcher out")
    if cfg.launcher.name != "auto" and cfg.reference == "resident":
        raise SettingsError("reference=resident: a second model is not sharded by the launcher; use reference=cached")
    if cfg.launcher.name != "auto" and method.reference_dropout and cfg.adapter.name == "none":
        raise SettingsError(
            f"launcher={cfg.launcher.name}: method.reference_dropout=true runs the reference at every step, and a second model "
            "is not sharded; use adapter=lora, or method.reference_dropout=false"
        )
    _check_adapter(cfg)
    method.check(cfg, benchmark)
    plan_batch(cfg.batch_size, world_size(), cfg.per_device_batch_size, largest=1)
    _check_values(cfg, INSTALLED)
    return settings


def check_evaluation(cfg: DictConfig) -> Questions:
    """What evaluate.py asks. Raises SettingsError, or the ValueError of the part that refuses."""
    benchmark = _check(cfg)
    _set_folder(cfg, "evaluate")
    _check_values(cfg, dict.fromkeys((f"measure.{key}" for key in cfg.measure), node))
    _check_values(cfg, {f"measure.{key}.name": name for key in cfg.measure})
    measures = tuple(build(one, f"measure={key}", path=f"measure.{key}") for key, one in cfg.measure.items())
    questions = Questions(benchmark, cfg.split, measures, build(cfg.probe, f"probe={cfg.probe.name}", path="probe"))
    if cfg.from_logs is not None:
        _check_logs(cfg)
        return questions
    benchmark.check_forget_split(cfg.split)
    questions.check()
    if not cfg.rescore:
        if cfg.reinforced.path is not None:
            check_combined(cfg.model.path, cfg.reinforced.path)
        if cfg.model.path is None and cfg.model.architecture is None:
            raise SettingsError(f"model={cfg.model.name}: set model.path to what is to be evaluated")
        _check_tokenizer(cfg)
        _check_values(cfg, INSTALLED)
    return questions


def _check_tokenizer(cfg: DictConfig) -> None:
    if cfg.model.path is None and cfg.model.tokenizer is None:
        words = "with model.path=null nothing says which tokenizer; name a folder or a Hub name"
        raise SettingsError(f"model.tokenizer=null: {words}")


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


def build(node: DictConfig, key: str, kind: type | None = None, path: str | None = None) -> Any:
    """The object of a `_target_` node, or of the class `kind`. Raises SettingsError with its words, for an unknown option, and
    for a value of another type than the class declares.

    path: of the node in the configuration, where `key` says something else.
    """
    try:
        made = instantiate(node) if kind is None else kind(**node)
    except Exception as error:  # whatever a class makes of a value that it did not expect
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if not isinstance(cause, ValueError):
            _check_types(node, path or key, kind)
        raise SettingsError(f"{key}: {first_line(cause)}") from error
    _check_types(node, path or key, kind)
    return made


def _check_types(node: DictConfig, path: str, kind: type | None = None) -> None:
    """Raises SettingsError for an option of the node, or of one below it, that is not of the type that its class declares."""
    options = _plain(node)
    target = options.pop("_target_", None)
    if kind is None and not isinstance(target, str | None):
        raise SettingsError(f"{path}._target_={target}: write the dotted name of a class, as the files in config have it")
    try:
        if kind is None and target is not None:
            kind = get_class(target)
        if kind is not None:
            declared(path, {option: value for option, value in options.items() if option not in HYDRAS}, kind)
    except ImportError as error:
        raise SettingsError(f"{path}._target_={target}: is no class of Python ({first_line(error)})") from error
    except ValueError as error:
        raise SettingsError(str(error)) from error
    for option in options:
        if OmegaConf.is_dict(below := node._get_node(option)) and not below._is_none():
            _check_types(below, f"{path}.{option}")


def _plain(node: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in OmegaConf.to_container(node, resolve=True).items()}


def _methods_of_forget_rows() -> list[str]:
    """Names of the methods that read what is to be forgotten and nothing else."""
    names = sorted(path.stem for path in (CONFIG / "method").glob("*.yaml"))
    nodes = [compose_settings(None, [f"+method={name}"]).method for name in names]
    methods = [_method(node) for node in nodes if "prepare" not in node]  # what is prepared may be made of rows to keep
    return [method.name for method in methods if not method.needs_retain and not method.memorises]


def _method(node: DictConfig) -> Method:
    """The method that a file of config/method describes: each of its nodes is a constructor call. Raises SettingsError."""
    from utils.training.method import Method, Stop, Templates

    kinds = {"templates": Templates, "stop": Stop}  # the others say which class they are
    declared("method", _plain(node), Method)
    parts: dict[str, Any] = {}
    for key in map(str, node):
        described = OmegaConf.is_dict(node[key])
        parts[key] = build(node[key], f"method.{key}", kinds.get(key)) if described else node[key]
    try:
        return Method(**parts)
    except (AttributeError, TypeError, ValueError) as error:
        raise SettingsError(f"method={node.name}: {first_line(error)}") from error


def _check(cfg: DictConfig) -> Benchmark:
    """What all scripts check alike."""
    _check_values(cfg, DIALS)
    asks_model = cfg.get("from_logs") is None
    if asks_model:
        build(cfg.model.template, "model.template", Template)
    benchmark = build(cfg.benchmark, f"benchmark={cfg.benchmark.name}", path="benchmark")
    if asks_model and not cfg.get("rescore", False):  # scores outlive the model that gave them
        _check_model(cfg.model)
    if cfg.compat not in benchmark.compats:
        valid = ", ".join(benchmark.compats)
        raise SettingsError(f"compat={cfg.compat}: means nothing on benchmark={cfg.benchmark.name}; write one of {valid}")
    return benchmark


def _check_model(model: DictConfig) -> None:
    """Raises ValueError for an architecture that no model can be made of, and for a folder that holds another model."""
    if model.path is None:
        from utils.weights.models import check_architecture

        check_architecture(model.architecture)
    elif isinstance(model.path, str) and Path(model.path).expanduser().exists():
        folder = model_folder(model.path)
        check_expected(model.name, model.expects, model.path, local_config(folder) or {})
        if is_adapter(folder):
            check_adapter_file(folder)


def _check_values(cfg: DictConfig, checks: Mapping[str, Check]) -> None:
    for key, check in checks.items():
        value = OmegaConf.select(cfg, key, default=ABSENT)
        try:
            if value is not ABSENT:
                check(key, value)
        except ValueError as error:
            raise SettingsError(str(error)) from error


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
    if adapter in ("lora", "qlora"):
        for key, own in cfg.model.lora.items():
            if own is None and (cfg.adapter.lora or {}).get(key) is None:
                raise SettingsError(f"adapter.lora.{key}=null: neither it nor model.lora.{key} says it; give one of them a value")
    if adapter == "qlora":
        if is_adapter(model_folder(cfg.model.path)):
            raise SettingsError(f"adapter=qlora: model.path={cfg.model.path} holds an adapter, not a model; use adapter=lora")


def _set_folder(cfg: DictConfig, script: str, counts: Collection[str] = ()) -> None:
    """Gives `out` its value where it has none."""
    if cfg.out is None:
        cfg.out = default_folder(cfg, script, counts)


def default_folder(cfg: DictConfig, script: str, counts: Collection[str] = ()) -> str:
    """Where a run lies if `out` is not given: a readable name, and a hash of everything that changes the result. An evaluation
    bears the method, rate and seed of the run that made its model.

    counts: dials that do so in this run alone.
    """
    plain = without_secrets(OmegaConf.to_container(cfg, resolve=True))
    parts = [cfg.benchmark.name, str(cfg.split), cfg.model.name]
    origin = Origin.of(cfg.model.path) if script == "evaluate" and isinstance(cfg.model.path, str) else None
    trained = plain if "method" in plain else origin and origin.settings
    if trained:
        parts += [trained["method"]["name"], f"lr{_short(trained['lr'])}", f"seed{trained['seed']}"]
    return f"runs/{script}/{'_'.join(parts)}-{result_hash(plain, counts)[:8]}"


def _short(number: float) -> str:
    """1e-05 as 1e-5."""
    return re.sub(r"e([+-])0*", r"e\1", f"{number:g}")
