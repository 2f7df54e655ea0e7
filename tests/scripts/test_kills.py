"""Runs that are killed at random file operations end, run again, as if nothing had been.

Many more of them by hand: python -m scripts.dev.kills --count 200
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.dev import kills
from utils import ROOT


@pytest.mark.slow
def test_a_dozen_kills_change_nothing(tmp_path):
    command = [sys.executable, "-m", "scripts.dev.kills", "--count", "12", "--folder", str(tmp_path / "runs")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "kills, 0 reruns that did not end as if nothing had been" in finished.stdout


def test_it_counts_what_changes_files_and_sees_every_difference(tmp_path, monkeypatch):
    hooks = []
    monkeypatch.setattr(sys, "addaudithook", hooks.append)
    count = kills._watch(tmp_path, None)
    (hook,) = hooks
    for event in (("open", (f"{tmp_path}/a", "w", 0o1101)), ("os.rename", (f"{tmp_path}/a", f"{tmp_path}/b", -1, -1))):
        hook(*event)
    for event in (("open", (f"{tmp_path}/a", "r", 0)), ("open", ("/elsewhere/a", "w", 0o1101)), ("import", ("json",))):
        hook(*event)
    assert count() == 2
    (tmp_path / "run.json").write_text('{"status": "finished", "started": "now"}')
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5, "train_runtime": 3}\n')
    (tmp_path / "scores.parquet").write_bytes(b"scores")
    before = kills.contents(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "finished", "started": "later"}')
    assert kills.difference(before, kills.contents(tmp_path)) is None
    (tmp_path / "scores.parquet").write_bytes(b"other")
    (tmp_path / "left.partial").write_bytes(b"")
    assert kills.difference(before, kills.contents(tmp_path)) == "scores.parquet, left.partial differ"
