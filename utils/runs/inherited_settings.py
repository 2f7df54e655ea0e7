"""Settings of evaluate.py that belong to a training run: model, benchmark and data as it had them, unless told otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from utils.files import flat_settings
from utils.runs.cli import compose_settings, parse_overrides, refuse_overrides

GROUPS = ("model", "benchmark")
DIALS = ("split", "data_root", "compat")
SET_HERE = ("model.path", "out", "from_logs", "reinforced.path", "reinforced.alpha")


def evaluation_settings(trained: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """What evaluate.py would start with, given the settings of a training run (its run.json) and overrides.

    Raises ValueError for an override of what is different for every model, HydraException for one that Hydra refuses.
    """
    refuse_overrides(overrides, SET_HERE)
    return compose_settings("evaluate", [*inherited(trained, overrides), *overrides])


def inherited(trained: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Overrides that give evaluate.py the model's and benchmark's options of a run, its split, data_root and compat.

    Options that a benchmark or model chosen in `overrides` does not share with the run's own are left alone, and so are those
    that evaluate.py does not have any more.
    """
    chosen = {o.key_or_group: str(o.value()) for o in parse_overrides(overrides)}
    kept = [group for group in GROUPS if chosen.get(group, trained[group]["name"]) == trained[group]["name"]]
    groups = [f"{group}={chosen[group]}" for group in GROUPS if group in chosen]
    flat = flat_settings(trained)
    wanted = {key: value for key, value in flat.items() if key.split(".")[0] in (*kept, *DIALS) and key != "model.path"}
    if "benchmark" not in kept:
        wanted.pop("split", None)  # of another benchmark
    overriding = [f"{group}={trained[group]['name']}" for group in kept if group not in chosen]
    given: set[str] = set()
    while True:
        cfg = compose_settings("evaluate", [*groups, *overriding])
        now = flat_settings(OmegaConf.to_container(cfg, resolve=True))
        differing = [key for key in wanted if key in now and now[key] != wanted[key] and key not in given]
        if not differing:
            return overriding
        # What follows another value comes last, from the outside in: once the others are right it may be right by itself.
        depth = min(key.count(".") for key in differing)
        new = [key for key in differing if not _follows(cfg, key)] or [key for key in differing if key.count(".") == depth]
        overriding += [as_override(key, wanted[key]) for key in new]
        given |= set(new)


def as_override(key: str, value: Any) -> str:
    """key=value as Hydra reads it, whatever characters the value holds."""
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, str):
        # A backslash means one only before a quote.
        doubled = re.sub(r"\\+(?='|\Z)", lambda found: 2 * found[0], value)
        return "'" + doubled.replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)


def _follows(cfg: DictConfig, key: str) -> bool:
    """Whether the value of a dotted key is an interpolation of others."""
    path, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, path) if path else cfg
    return OmegaConf.is_interpolation(parent, name)
