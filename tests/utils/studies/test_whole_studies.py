"""The command as people type it, with real runs: the same numbers whatever launcher runs them, and however often it is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.runs import QUICK_EVALUATION, SMALL
from utils import ROOT
from utils.files import read_rows

pytestmark = pytest.mark.slow
WORDS = ["tofu_tiny", "rows={ga:{},npo:{}}", "baseline=ga", "tune=null", "models.oracle.seeds=[100]", "evaluate.null_runs=[]"]
WORDS += ["finetune.epochs=1", "unlearn.epochs=1", "columns=[forget_quality,model_utility,forget_prob]", "evaluate.measure=[]"]
WORDS += [*(f"common.{word}" for word in SMALL), *(f"evaluate.{word}" for word in QUICK_EVALUATION)]


def study(folder: Path, *more: str) -> subprocess.Popen:
    """The command, with a pool, results and a cache of its own in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "scripts/study.py"), *WORDS, *more, "pool=pool", "results=results"]
    with open(folder / "said", "a", encoding="utf-8") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)


def finished(folder: Path, *more: str) -> None:
    assert study(folder, *more).wait(1800) == 0, (folder / "said").read_text()


def numbers(folder: Path) -> dict[str, Any]:
    """The metrics of every evaluation of the pool, to compare with others: which evaluation first scores what two of them ask is
    a matter of time, and sums in another order end in other last digits."""
    paths = (folder / "pool").glob("*/metrics.json")
    found = {(path.parent.name, key): one["value"] for path in paths for key, one in json.loads(path.read_text()).items()}
    return pytest.approx(found, abs=1e-6, nan_ok=True)


def table(folder: Path) -> list[str]:
    return (folder / "results" / "tofu_tiny" / "table.md").read_text().splitlines()


def test_three_seeds_of_two_methods_give_the_same_numbers_under_every_launcher(tmp_path):
    launchers: dict[str, Sequence[str]] = {"basic": (), "joblib": ("parallel=2",), "submitit_local": ("parallel=2",)}
    for launcher, more in launchers.items():
        finished(tmp_path / launcher, "seeds=[0,1,2]", f"launcher={launcher}", *more)
    first, *others = (numbers(tmp_path / launcher) for launcher in launchers)
    assert len({name for name, _ in first.expected}) == 1 + 1 + 6  # target, oracle, two rows under three seeds
    assert all(other.expected == first for other in others)
    assert table(tmp_path / "basic") == table(tmp_path / "joblib") == table(tmp_path / "submitit_local")


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_study_that_is_killed_ends_with_the_same_table(tmp_path, launcher):
    how = ("seeds=[0,1]", f"launcher={launcher}", *(["parallel=2"] if launcher == "joblib" else []))
    finished(tmp_path / "undisturbed", *how)
    draw, killed = random.Random(0), 0
    for _ in range(10):
        process = study(tmp_path / "killed", *how)
        try:
            process.wait(draw.uniform(10, 35))
        except subprocess.TimeoutExpired:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.5)
    assert killed >= 5
    finished(tmp_path / "killed", *how)
    assert numbers(tmp_path / "killed").expected == numbers(tmp_path / "undisturbed")
    assert table(tmp_path / "killed") == table(tmp_path / "undisturbed")
    left = [path for path in (tmp_path / "killed" / "pool").rglob("*.partial")]
    assert not left and read_rows(tmp_path / "killed" / "results" / "tofu_tiny" / "cells.jsonl")
