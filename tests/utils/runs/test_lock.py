"""A run folder belongs to one run at a time, and whoever was killed at whatever moment is followed by the same command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.runs import compose_settings
from utils import ROOT, alive
from utils.files import read_json
from utils.runs.run import LOCK, Run, RunError

HOLDS = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from utils.runs.cli import compose_settings
from utils.runs.run import Run
with Run.open(compose_settings("unlearn", ["out=run"]), "unlearn", {{}}) as run:
    run.record({{"step": 1}})
    print("working", flush=True)
    time.sleep(120)
"""


def opened(out: Path, *overrides: object, script: str = "unlearn") -> Run:
    return Run.open(compose_settings(script, f"out={out}", *overrides), script, {})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def somebody(tmp_path):
    """Another process that works in tmp_path/run."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_told_who_holds_the_folder_and_a_dead_one_is_followed(tmp_path, somebody):
    before = {name: (tmp_path / "run" / name).read_bytes() for name in names(tmp_path / "run")}
    for overrides in ((), ("lr=0.5",), ("overwrite=true",), ("overwrite=true", "lr=0.5"), ("resume=false",)):
        with pytest.raises(RunError) as refusal:
            opened(tmp_path / "run", *overrides)
        assert f"out={tmp_path}/run is in use by another run (process {somebody.pid} on " in str(refusal.value)
        assert str(refusal.value).endswith("); wait until it ends, or choose another out=")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in names(tmp_path / "run")} == before
    somebody.kill()
    somebody.wait()
    with opened(tmp_path / "run") as run:
        assert not run.skip and read_json(tmp_path / "run" / LOCK)["pid"] == os.getpid()
    assert LOCK not in names(tmp_path / "run")


def test_the_folder_is_free_after_a_run_that_ended_well_or_badly(tmp_path):
    with pytest.raises(ZeroDivisionError), opened(tmp_path / "run") as run:
        run.record({"step": 1})
        raise ZeroDivisionError
    assert LOCK not in names(tmp_path / "run")
    with opened(tmp_path / "run") as run:
        run.finish()
        assert LOCK not in names(tmp_path / "run")  # before the others of a launch go on
    with opened(tmp_path / "run") as run:
        assert run.skip and LOCK not in names(tmp_path / "run")


def test_a_run_that_lost_its_folder_writes_nothing_more(tmp_path):
    run = opened(tmp_path / "run")
    other = alive.Owner("far", 1, "now", "another place")
    (tmp_path / "run" / LOCK).write_text(json.dumps(asdict(other)))
    for write in (lambda: run.record({"step": 1}), lambda: run.note(items=3), run.finish):
        with pytest.raises(RunError, match="was taken over by another run, since this one gave no sign of life for 180 sec"):
            write()
    assert "items" not in read_json(tmp_path / "run" / "run.json") and not (tmp_path / "run" / "log.jsonl").exists()


def test_a_run_on_another_machine_is_followed_once_it_has_been_silent(tmp_path):
    opened(tmp_path / "run").record({"step": 1})
    lock = tmp_path / "run" / LOCK
    lock.write_text(json.dumps(asdict(alive.Owner("far", 1, "yesterday", "another place"))))
    with pytest.raises(RunError, match="process 1 on far, there since yesterday"):
        opened(tmp_path / "run")
    long_ago = time.time() - alive.STALE - 60
    os.utime(lock, (long_ago, long_ago))
    assert not opened(tmp_path / "run").skip


@pytest.mark.slow
def test_killed_between_folder_and_run_json(tmp_path):
    dead = asdict(alive.Owner("far", 1, "yesterday", "another place"))
    for left in ([], [LOCK], [LOCK, "run.json.partial"], [f"{LOCK}.0123abcd"], ["run.json.partial"]):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name in left:
            (folder / name).write_text(json.dumps(dead)[:-5] if name.endswith("partial") else json.dumps(dead))
            os.utime(folder / name, (1, 1))
        for more in ((), ("overwrite=true",), ("resume=false",)):
            with opened(folder, *more) as run:
                assert not run.skip
        assert names(folder) == ["config.yaml", "run.json"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "config.yaml").write_text("mine")
    with pytest.raises(RunError, match="not a run folder .it holds config.yaml"):
        opened(tmp_path / "thesis", "overwrite=true")


def test_killed_in_the_final_clean_up(tmp_path):
    with opened(tmp_path / "run") as run:
        run.finish()
    for left in ("checkpoints/checkpoint-2", "model.partial", "checkpoints"):
        (tmp_path / "run" / left).mkdir(parents=True)
        (tmp_path / "run" / "log.jsonl.partial").write_text("half")
        assert opened(tmp_path / "run").skip
        assert names(tmp_path / "run") == ["config.yaml", "run.json"]


def test_killed_while_an_old_run_is_cleared(tmp_path, monkeypatch):
    with opened(tmp_path / "run") as run:
        (run.folder / "metrics.json").write_text("{}")
        (run.folder / "model").mkdir()
        run.finish()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opened(tmp_path / "run", "overwrite=true")
    assert (tmp_path / "run" / "model").exists() and read_json(tmp_path / "run" / "run.json")["status"] != "finished"
    assert not opened(tmp_path / "run", "lr=0.5").skip  # of other settings too: what was there had been given up
    assert names(tmp_path / "run") == ["config.yaml", LOCK, "run.json"]
    assert read_json(tmp_path / "run" / "run.json")["settings"]["lr"] == 0.5


def test_what_cannot_be_written_to_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, said in (("file/run", "Not a directory"), ("link", "is a link to .*nowhere, which does not exist")):
        with pytest.raises(RunError, match=f"out={tmp_path}/{out}: .*{said}.*; .*choose another out="):
            opened(tmp_path / out)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.runs.run.write_json", full)
    with pytest.raises(RunError, match=f"out={tmp_path}/run: cannot be written to .No space left on device: .*; make room, or"):
        opened(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_link_to_a_folder_is_cleared_and_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with opened(tmp_path / "link") as run:
        run.record({"step": 1})
    with opened(tmp_path / "link", "overwrite=true"):
        assert (tmp_path / "link").is_symlink() and not (tmp_path / "disk" / "log.jsonl").exists()
