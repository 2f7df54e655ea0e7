"""The script `evaluate.py` and the Hugging Face library `evaluate` share a name: each is found by whoever means it.

That `python evaluate.py` and `torchrun unlearn.py` find the project's own modules: test_command_lines.py, test_distributed.py.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, launch


@pytest.mark.slow
def test_a_new_python_in_the_root_finds_the_library():
    code = (
        "import utils, evaluate, data, losses, metrics\n"
        "print(callable(evaluate.load), evaluate.__file__)\n"
        "print(data.__file__, losses.__file__, metrics.__file__, utils.__file__)"
    )
    found = launch(ROOT, "-c", code, fresh=True)
    assert found.code == 0, found.err
    library, ours = found.out.splitlines()
    assert library.startswith("True ") and not library.endswith(f"{ROOT}/evaluate.py")
    assert ours.split() == [f"{ROOT}/{name}/__init__.py" for name in ("data", "losses", "metrics", "utils")]


def test_pytest_finds_both():
    library = importlib.import_module("evaluate")
    assert callable(library.load) and Path(library.__file__).parent != ROOT
    for name in ("data", "losses", "metrics", "utils"):
        assert Path(importlib.import_module(name).__file__) == ROOT / name / "__init__.py"


@pytest.mark.parametrize("entry", ["", str(ROOT), f"{ROOT}/utils/.."])
def test_however_the_root_is_spelt(monkeypatch, entry):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    monkeypatch.delitem(sys.modules, "evaluate", raising=False)
    assert Path(importlib.util.find_spec("evaluate").origin) != ROOT / "evaluate.py"
