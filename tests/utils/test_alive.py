"""Who uses a folder, and whether that process still lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from utils import ROOT, alive

HOLDS = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from utils import alive
try:
    sign = alive.seize(Path("lock.json"))
    print("mine", flush=True)
    time.sleep(float(sys.argv[1]))
except alive.Taken as taken:
    print("taken by", taken.owner.pid, flush=True)
"""


def start(folder: Path, seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLDS, str(seconds)], cwd=folder, stdout=subprocess.PIPE, text=True)


def written_by(path: Path, owner: alive.Owner, old: float = 0.0) -> Path:
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - old, time.time() - old))
    return path


def test_one_of_many_gets_it_and_the_others_are_told_who_has(tmp_path):
    started = [start(tmp_path, 20) for _ in range(4)]
    said = {process.pid: process.stdout.readline().split() for process in started}
    (winner,) = [pid for pid, words in said.items() if words == ["mine"]]
    assert sum(words == ["taken", "by", str(winner)] for words in said.values()) == 3
    with pytest.raises(alive.Taken, match=f"process {winner} on .*, there since 20"):
        alive.seize(tmp_path / "lock.json")
    for process in started:
        process.kill()
        process.wait()


def test_a_dead_owner_is_followed_at_once_by_exactly_one(tmp_path):
    first = start(tmp_path, 60)
    assert first.stdout.readline() == "mine\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "lock.json").exists() and alive.holder(tmp_path / "lock.json") is None
    started = [start(tmp_path, 20) for _ in range(4)]
    assert sum(process.stdout.readline() == "mine\n" for process in started) == 1
    for process in started:
        process.kill()
        process.wait()


def test_a_zombie_and_an_id_that_is_used_again_are_dead(tmp_path):
    first = start(tmp_path, 60)
    first.stdout.readline()
    known = alive._read(tmp_path / "lock.json")
    first.kill()
    time.sleep(0.5)
    assert alive.holder(tmp_path / "lock.json") is None  # nobody has waited for it yet
    first.wait()
    other = replace(known, pid=os.getppid())
    assert alive.holder(written_by(tmp_path / "again", other)) is None
    assert alive.holder(written_by(tmp_path / "again", replace(other, born=alive._born(os.getppid())))) is not None


@pytest.mark.parametrize("silent, lives", [(0, True), (alive.STALE - 30, True), (alive.STALE + 30, False)])
def test_on_another_machine_the_last_sign_decides(tmp_path, silent, lives):
    elsewhere = alive.Owner("far", os.getpid(), "yesterday", "another place", 17)
    path = written_by(tmp_path / "lock.json", elsewhere, silent)
    assert (alive.holder(path) == elsewhere) == lives
    if lives:
        with pytest.raises(alive.Taken, match="on far, there since yesterday"):
            alive.seize(path)
    else:
        sign = alive.seize(path)
        assert sign.is_mine()
        sign.remove()
    assert not [left for left in tmp_path.iterdir() if left.name != "lock.json"]


def test_where_the_system_tells_less_the_id_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(alive, "_place", lambda: "")
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    here = replace(alive.myself(), place="", born=-1)
    assert alive.holder(written_by(tmp_path / "lock.json", replace(here, pid=ended.pid))) is None
    assert alive.holder(written_by(tmp_path / "lock.json", replace(here, pid=os.getppid()))) is not None
    assert alive.holder(written_by(tmp_path / "lock.json", here)) is None  # this process itself


def test_signs_of_life_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(alive, "BEAT", 0.05)
    monkeypatch.setattr(alive, "_beater", [])
    sign = alive.post(tmp_path / "one.json")
    os.utime(sign.path, (1, 1))
    until = time.time() + 20
    while sign.path.stat().st_mtime == 1 and time.time() < until:
        time.sleep(0.05)
    assert sign.path.stat().st_mtime > 1
    sign.remove()
    assert not sign.path.exists()


def test_what_another_took_over_is_not_removed(tmp_path):
    sign = alive.seize(tmp_path / "lock.json")
    written_by(sign.path, alive.Owner("far", 1, "now", "another place"))
    assert not sign.is_mine()
    sign.remove()
    assert sign.path.exists()


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "not here")

    monkeypatch.setattr(os, "link", link)
    sign = alive.seize(tmp_path / "lock.json")
    assert sign.is_mine()
    assert start(tmp_path, 0).stdout.readline() == f"taken by {os.getpid()}\n"
    sign.remove()


def test_a_damaged_file_counts_by_its_age(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text("{")
    assert alive.holder(path) is not None
    os.utime(path, (1, 1))
    assert alive.holder(path) is None
