"""Losses and metrics are arithmetic on tables: whoever imports one of them waits for no model library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from utils import ROOT

HEAVY = ("transformers", "peft")
FOLDERS = ("losses", "metrics", "metrics/benchmarks")
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
IMPORT_ALL = """
import importlib, sys
heavy, modules = (words.split(",") for words in sys.argv[1:])
for module in modules:
    importlib.import_module(module)
    if loaded := [name for name in heavy if name in sys.modules]:
        sys.exit(f"importing {module} loads {', '.join(loaded)}")
"""


@pytest.mark.slow
def test_neither_losses_nor_metrics_load_a_model_library():
    assert len(MODULES) > 20
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(HEAVY), ",".join(sorted(MODULES))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
