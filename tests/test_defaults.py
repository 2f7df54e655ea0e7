"""An option stands in its file under config/ and in the class that reads it: both say the same, whoever is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from omegaconf import OmegaConf

from utils import ROOT

FILES = sorted(path for group in ("benchmark", "measure", "probe") for path in (ROOT / "config" / group).glob("*.yaml"))


def both() -> Iterator[tuple[str, Any, Any]]:
    """Option, what its file says, what its class takes by default."""
    for path in FILES:
        written = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        for node in (written, written.get("metrics", {})):
            module, _, name = node.get("_target_", "builtins.object").rpartition(".")
            made = getattr(import_module(module), name)
            for field in fields(made) if made is not object else ():
                value = node.get(field.name, MISSING)
                if MISSING not in (value, field.default) and "${" not in str(value):
                    yield f"{path.stem}: {name}.{field.name}", tuple(value) if isinstance(value, list) else value, field.default


def test_files_and_classes_say_the_same():
    compared = list(both())
    assert len(compared) > 50
    assert [option for option, written, default in compared if written != default] == []
