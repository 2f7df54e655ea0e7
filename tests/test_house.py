"""The house keeps its order: what import-linter does not see of the direction, names, and the size of rooms."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from utils import ROOT

PACKAGES = ("utils", "losses", "metrics", "data")
TOPS = ("scripts", "tests", "finetune", "unlearn", "evaluate")
ROOMS = sorted(
    {path.parent for top in (*PACKAGES, "scripts") for path in (ROOT / top).rglob("*.py") if "fixtures" not in path.parts[-3:-1]}
)
MOST = 14  # Python files of a room besides its __init__.py
PLUG_INS = ("losses", "scripts")  # as many as there are methods, and tools
# Released code bases that the values of compat name, and what a value of compat is compared with.
COMPATS = {"tofu_original", "open_unlearning", "flat_released", "muse_released", "meow_released"}
# Plain words and standard terms that are also the name of a benchmark, a loss, a method or a file of metrics/: the completion of
# a chat model, flat settings, the divergence, what finetune.py does, a likelihood, the split that is kept, tables of any kind.
WORDS = {"completion", "flat", "kl", "memorise", "nll", "own", "refusals", "retain", "tables"}


def sources(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever the import stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_a_script_or_a_test(path):
    assert not [name for name in modules(path) if name.split(".")[0] in TOPS and name != "evaluate"]


@pytest.mark.parametrize("path", sources("scripts"), ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_find_the_packages_in_one_way(path):
    own = [name for name in modules(path) if name.split(".")[0] in (*PACKAGES, "scripts", "tests")]
    text = path.read_text(encoding="utf-8")
    if path.name != "_path.py":
        assert "sys.path" not in text
    if path.parent.name == "scripts" and own:
        assert "_path" in modules(path), "import _path first: the script must find the packages from any folder"


def test_nobody_silences_the_order_of_imports():
    assert not [path for path in sources(*PACKAGES, "scripts", "tests") if "noqa: " + "E402" in path.read_text("utf-8")]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_is_seen_at_a_glance_and_says_what_lives_there(room):
    files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST or room.name in PLUG_INS
    told = ast.get_docstring(tree(room / "__init__.py"))
    if room != ROOT / "utils":  # where the name `evaluate` is settled
        assert told and len(told.splitlines()) <= 2


def plugged_in() -> set[str]:
    """Names of benchmarks, losses, methods, measures and metrics: file names, and the classes that config/ names."""
    stems = {path.stem for folder in ("benchmark", "method", "measure") for path in (ROOT / "config" / folder).glob("*.yaml")}
    stems |= {path.stem for path in [*(ROOT / "losses").glob("*.py"), *(ROOT / "metrics").rglob("*.py")]}
    targets = r"_target_: (?:losses|metrics|data\.benchmarks)\.[\w.]*\.(\w+)"
    classes = {name for path in (ROOT / "config").rglob("*.yaml") for name in re.findall(targets, path.read_text("utf-8"))}
    return {name.lower() for name in stems | classes} - WORDS - {"__init__"}


def spoken(path: Path) -> Iterator[str]:
    """Identifiers and string constants of a file, docstrings left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    told = {id(node.body[0].value) for node in ast.walk(tree(path)) if isinstance(node, documented) and ast.get_docstring(node)}
    # A text behind a field says what it is.
    told |= {
        id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(value := getattr(node, field, None), str):
                yield value


@pytest.mark.parametrize("path", sources("utils"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_machine_names_nothing_that_is_plugged_in(path):
    names = plugged_in()
    said = {word.lower() for text in spoken(path) if text not in COMPATS for word in re.findall(r"[A-Za-z_]+", text)}
    assert not said & names
