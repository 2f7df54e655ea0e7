"""Settings follow the weights: a model that a run wrote is read as that run read it, unless the command line says otherwise."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from utils.files import flat_settings
from utils.runs.cli import CONFIG, as_override, compose_settings, parse_overrides, refuse_overrides, unfolded
from utils.runs.lineage import Origin
from utils.runs.recipes import check_start

log = logging.getLogger(__name__)

GROUPS = ("model", "benchmark")
DIALS = ("split", "data_root", "compat")
SET_HERE = ("model.path", "out", "from_logs", "reinforced.path", "reinforced.alpha")
NO_MODEL = "log"  # name of the model in the settings of logs
OPEN = ("model.template.options", "benchmark.fields")  # nodes whose names nobody knows before


def follows_weights(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """`main` with the settings of the run that wrote `model.path`, job by job in a sweep; for use below `hydra.main`."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        hydra = HydraConfig.get()
        script, overrides = str(hydra.job.config_name), list(hydra.overrides.task)
        main(settings_of(script, overrides) if "recipe" in cfg else followed(script, cfg, overrides))

    return wrapped


def settings_of(script: str, overrides: Sequence[str]) -> DictConfig:
    """What `python <script>.py OVERRIDES` works with. Raises ValueError as `followed`, HydraException as `compose_settings`."""
    words = unfolded(script, overrides)
    return followed(script, compose_settings(script, words), words)


def followed(script: str, cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg`, which `overrides` gave, with what the run that wrote `model.path` says of model, benchmark and data.

    A released checkpoint is known by its name. Raises ValueError for a model of another source while nobody says which model file
    it goes with, for one whose run is not finished, and for prompts other than the run's, unless override_model=true.
    """
    said = {override.key_or_group for override in parse_overrides(overrides)}
    if cfg.get("from_logs") is not None:
        return _without_model(cfg, said)
    check_start(cfg, script)
    path = cfg.model.path
    if not isinstance(path, str):
        return cfg  # random weights; or no path at all, which is refused where all values are
    origin = Origin.of(path)
    if origin is None:
        words = _as_released(path, said)
        if words:
            log.info("model.path=%s goes with: %s", path, " ".join(words))
        return compose_settings(script, [*words, *overrides]) if words else cfg
    if not origin.finished and origin.part != "snapshots":
        raise ValueError(
            f"model.path={path}: the run in {origin.folder} is not finished; let it end (the same command goes on), or give one "
            f"of its snapshots"
        )
    trained = dict(origin.settings)
    if script == "finetune" or origin.capsule["script"] == "finetune":
        trained.pop("split", None)  # what was memorised is no forget split, and the other way round
    for group in GROUPS:
        name = trained[group]["name"]
        if group not in said and not (CONFIG / group / f"{name}.yaml").is_file():
            raise ValueError(
                f"model.path={path}: was made with {group}={name}, which is no file of config/{group}; bring it back"
            )
    words = inherited(trained, overrides, script, cfg)
    if words:
        log.info("as in %s: %s", origin.folder, " ".join(words))
        cfg = compose_settings(script, [*words, *overrides])
    if not cfg.override_model:
        _refuse_other_prompts(cfg, origin, said)
    return cfg


def released(path: str) -> Mapping[str, str]:
    """Dotted key -> value of what goes with a checkpoint that others released (config/checkpoints.yaml), or with a base model of
    config/model; nothing for a name that is in neither."""
    for pattern, settings in OmegaConf.load(CONFIG / "checkpoints.yaml").items():
        if fnmatchcase(path.lower(), str(pattern).lower()):
            return dict(settings)
    return next(({"model": file.stem} for file in _model_files() if OmegaConf.load(file).path == path), {})


def _model_files() -> list[Path]:
    return sorted((CONFIG / "model").glob("*.yaml"))


def _as_released(path: str, said: Collection[str]) -> list[str]:
    """Overrides that go with a model that no run wrote, less what the command line says. Raises ValueError where nobody says
    which model file it goes with."""
    settings = released(path)
    if "model" not in said and "model" not in settings:
        names = ", ".join(file.stem for file in _model_files())
        raise ValueError(
            f"model.path={path}: is no run folder that would say how its prompts are written; name its file in config/model "
            f"too: model=NAME, one of {names}"
        )
    return [as_override(key, value) for key, value in settings.items() if key not in said]


def _without_model(cfg: DictConfig, said: Collection[str]) -> DictConfig:
    """`cfg` as logs of other code have it: no model is asked, and whose numbers they are is known only if `model` was chosen."""
    known = "model" in said
    cfg.model = {
        "name": cfg.model.name if known else NO_MODEL,
        "path": None,
        "data_root": cfg.model.data_root if known else "hub",  # what other code evaluates on; nothing is read from there
    }
    return cfg


def _refuse_other_prompts(cfg: DictConfig, origin: Origin, said: Collection[str]) -> None:
    now, then = (_flat(settings) for settings in (OmegaConf.to_container(cfg, resolve=True), origin.settings))
    for key in now:
        # The model's folder brings its tokenizer along, whatever another model file names.
        counts = key in said if key == "model.tokenizer" else key.startswith("model.template.")
        if counts and now[key] != then.get(key, now[key]):
            raise ValueError(
                f"{key}={now[key]!r}: the model in {origin.folder} was trained with {then[key]!r} "
                f"(model={origin.settings['model']['name']}); leave it out, or say override_model=true"
            )


def evaluation_settings(trained: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """What evaluate.py would start with, given the settings of a training run (its run.json) and overrides.

    Raises ValueError for an override of what is different for every model, HydraException for one that Hydra refuses.
    """
    refuse_overrides(overrides, SET_HERE)
    words = unfolded("evaluate", overrides)
    return compose_settings("evaluate", [*inherited(trained, words), *words])


def inherited(
    trained: Mapping[str, Any], overrides: Sequence[str], script: str = "evaluate", cfg: DictConfig | None = None
) -> list[str]:
    """Overrides that give a script the model's and benchmark's options of a run, its split, data_root and compat.

    Options that a benchmark or model chosen in `overrides` does not share with the run's own are left alone, and so are those
    that the script does not have any more, and those that `overrides` set. cfg: what `overrides` give, if it is known.
    """
    chosen = {o.key_or_group: str(o.value()) for o in parse_overrides(overrides)}
    kept = [group for group in GROUPS if chosen.get(group, trained[group]["name"]) == trained[group]["name"]]
    groups = [f"{group}={chosen[group]}" for group in GROUPS if group in chosen]
    flat = _flat(trained)
    wanted = {key: value for key, value in flat.items() if key.split(".")[0] in (*kept, *DIALS) and key != "model.path"}
    if "benchmark" not in kept:
        wanted.pop("split", None)  # of another benchmark
    if cfg is not None and not _differing(cfg, {key: value for key, value in wanted.items() if key not in chosen}):
        return []
    overriding = [f"{group}={trained[group]['name']}" for group in kept if group not in chosen]
    given: set[str] = set()
    while True:
        cfg = compose_settings(script, [*groups, *overriding])
        differing = [key for key in _differing(cfg, wanted) if key not in given]
        if not differing:
            return overriding
        # What follows another value comes last, from the outside in: once the others are right it may be right by itself.
        depth = min(key.count(".") for key in differing)
        new = [key for key in differing if not _follows(cfg, key)] or [key for key in differing if key.count(".") == depth]
        overriding += [as_override(key, wanted[key]) for key in new]
        given |= set(new)


def _differing(cfg: DictConfig, wanted: Mapping[str, Any]) -> list[str]:
    """The keys of `wanted` that `cfg` has with another value."""
    now = _flat(OmegaConf.to_container(cfg, resolve=True))
    return [key for key in wanted if key in now and now[key] != wanted[key]]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys; a node that is OPEN is one value."""
    below = tuple(f"{node}." for node in OPEN)
    flat = {key: value for key, value in flat_settings(settings).items() if not key.startswith(below)}
    for node in OPEN:
        found: Any = settings
        for name in node.split("."):
            found = (found or {}).get(name)
        flat[node] = found or None
    return flat


def _follows(cfg: DictConfig, key: str) -> bool:
    """Whether the value of a dotted key is an interpolation of others."""
    path, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, path) if path else cfg
    return OmegaConf.is_interpolation(parent, name)
