"""The walks of docs/architecture.md follow the imports: whoever reads them meets the files in an order that the code has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from utils import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MOST = 8  # files of a walk: what one can keep in mind


def walks() -> dict[str, list[tuple[str, str | None]]]:
    """Title -> (file, the YAML file that plugs it in or None) of every step, in order."""
    section = PAGE[PAGE.index("## Five walks") :]
    section = section[: section.index("\n## ", 1)]
    parts = re.split(r"^### (.+)$", section, flags=re.MULTILINE)[1:]
    steps = r"^\d+\. `([\w/.]+)`(?: \(`(config/[\w/.]+)`\))?"
    return {
        title: [(file, config or None) for file, config in re.findall(steps, text, re.MULTILINE)]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


@cache
def imports(file: str) -> frozenset[str]:
    """The project's files that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    paths = {f"{module.replace('.', '/')}.py" for module in found}
    return frozenset(path for path in paths if (ROOT / path).is_file())


def test_there_are_five_walks_of_a_few_files():
    assert len(walks()) == 5
    assert all(4 <= len(steps) <= MOST for steps in walks().values())


@pytest.mark.parametrize("title", walks())
def test_every_file_is_met_before_or_plugged_in(title):
    met: set[str] = set()
    for file, config in walks()[title]:
        assert (ROOT / file).is_file(), file
        known = set().union(*(imports(path) for path in met)) if met else {file}
        if config is None:
            assert file in known, f"{file} is imported by none of {', '.join(sorted(met))}"
        else:
            target = file.removesuffix(".py").replace("/", ".")
            assert f"_target_: {target}." in (ROOT / config).read_text(encoding="utf-8"), f"{config} does not name {target}"
        met.add(file)


def test_the_rooms_are_those_of_the_tree():
    rooms = {path.parent.name for path in (ROOT / "utils").glob("*/__init__.py")}
    drawing = PAGE[PAGE.index("─── utils/ ───") : PAGE.index("Where does a new line go?")]
    assert rooms == {word for word in re.findall(r"[a-z_]+", drawing) if Path(ROOT / "utils" / word).is_dir()}
