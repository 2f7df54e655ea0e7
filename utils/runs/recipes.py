"""Recipes: what a publication fixes of one of its settings, applied under what the command line says.

A file config/recipe/<paper>/<setting>.yaml holds settings as one would type them, dotted key by dotted key, with their sources.
Its sections `target` (finetune.py), `unlearn` and `evaluate` are for one script each; what stands beside them is for every script
that has one. `base: <paper>/<other>` takes over what another setting says.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from utils import ROOT
from utils.checks import did_you_mean_or_all
from utils.runs.terminal.help import SECTIONS

GROUP = "recipe"
FOLDER = ROOT / "config" / GROUP


def recipes() -> list[str]:
    """Names of all recipes: <paper>/<setting>."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))


def recipe_settings(name: str, script: str, said: Collection[str]) -> dict[str, Any]:
    """Dotted key -> value of what a recipe says to `<script>.py`, less what `said` (keys and groups of a command line) decides.

    With another choice of a group, what the recipe says of its own choice is left out. Raises ValueError for a name that there is
    not, and for a recipe without a section for this script.
    """
    written = _read(name)
    sections = {key: written.pop(section) for key, section in SECTIONS.items() if section in written}
    if script not in sections:
        there = " and ".join(f"{other}.py" for other in sections)
        raise ValueError(f"recipe={name}: says nothing to {script}.py, only to {there}; {_without(script)}")
    settings = written | sections[script]
    return {key: value for key, value in settings.items() if not _decided(key, value, said)}


def check_start(cfg: DictConfig, script: str) -> None:
    """Raises ValueError where a recipe leaves open which trained model the script starts from, and nobody says."""
    if OmegaConf.is_missing(cfg.model, "path"):
        raise ValueError(
            f"recipe={cfg.recipe}: {script}.py starts from a trained target; make it with: python finetune.py "
            f"recipe={cfg.recipe} out=runs/target, then add model.path=runs/target"
        )


def _read(name: str) -> dict[str, Any]:
    """What a recipe says, over what its base says."""
    if name not in recipes():
        raise ValueError(f"recipe={name}: there is no such recipe{did_you_mean_or_all(name, recipes())}")
    written = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=False)
    if "base" not in written:
        return written
    below = _read(written.pop("base"))
    sections = {key: below[key] | written.get(key, {}) for key in SECTIONS.values() if key in below}
    return below | written | sections


def _without(script: str) -> str:
    if script == "finetune":
        return "its unlearning starts from a published model"
    return f"choose another, or give {script}.py its settings without a recipe"


def _decided(key: str, value: Any, said: Collection[str]) -> bool:
    if key in said:
        return True
    parts = key.split(".")
    groups = {".".join(parts[:end]) for end in range(1, len(parts))} | ({"benchmark"} if key == "split" else set())
    return value != "???" and not groups.isdisjoint(said)
