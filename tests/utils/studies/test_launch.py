"""The launchers that exist run cells alike: the same ends, a place for each, and one way to stop them all."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.utils.studies.stubs import ends, stub, wait_until
from utils import ROOT, interruption
from utils.studies import launch, runner
from utils.studies.launch import Launch, launchers, visible_gpus

INSTALLED = {"basic": "hydra", "joblib": "hydra_plugins.hydra_joblib_launcher", "ray": "hydra_plugins.hydra_ray_launcher"}
INSTALLED |= dict.fromkeys(("submitit_local", "submitit_slurm"), "hydra_plugins.hydra_submitit_launcher")
LOCAL = ("basic", "joblib", "submitit_local")
# As the study command does: Ctrl-C is heard, and what runs is asked to end.
STARTS = """
import sys
from pathlib import Path
from tests.utils.studies.stubs import stub
from utils import interruption
from utils.studies.launch import Launch
pool, launcher, code = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
made = Launch(launcher, pool, parallel=None if launcher == "basic" else 2)
with interruption.heard():
    try:
        made.run([stub(pool, name, code.replace("NAME", name)) for name in "abc"])
    except interruption.Interrupted as stopped:
        sys.exit(stopped.code)
"""
WAITS = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(0.5)  # a checkpoint
    pathlib.Path("NAME.heard").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path("NAME.begun").touch()
time.sleep(60)
"""


def installed(launcher: str) -> bool:
    try:
        return importlib.util.find_spec(INSTALLED[launcher]) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(runner, "LOOK", 0.1)
    monkeypatch.setattr(runner, "POLL", 0.02)


@pytest.mark.parametrize("launcher", LOCAL)
def test_every_launcher_ends_alike(tmp_path, monkeypatch, launcher, caplog):
    """Success, failure with its sentence, a path with a space and =; nothing but the ends is left behind."""
    pool = tmp_path / "a pool = here"
    monkeypatch.chdir(tmp_path)
    started = Launch(launcher, pool, parallel=None if launcher == "basic" else 2)
    codes = {"well": "open('well', 'a').write('x')", "ill": "print('fine'); raise ValueError('rows=7: write less')"}
    assert started.run([stub(pool, name, code) for name, code in codes.items()]) == set()
    assert {name: (end["status"], end["told"]) for name, end in ends(pool).items()} == {
        "well": ("finished", ""),
        "ill": ("failed", "ValueError: rows=7: write less"),
    }
    assert {end["places"][0] for end in ends(pool).values()} <= set(started.slots)
    assert (tmp_path / "well").read_text() == "x" and "fine\n" in (pool / ".orders" / "ill.log").read_text()
    assert not caplog.messages and not started.stopped
    started.tidy()
    left = [path.name for path in pool.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(f"{name}.{end}" for name in codes for end in ("json", "log"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LOCAL)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_stops_every_launcher_cleanly(tmp_path, launcher, number):
    """Ctrl-C reaches the whole group, as from a terminal; SIGTERM the command alone, as from a cluster.

    Both end when the cells have written what they had to write.
    """
    command = [sys.executable, "-c", STARTS, str(tmp_path / "pool"), launcher, WAITS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len([*tmp_path.glob("*.begun")]) == (1 if launcher == "basic" else 2), 60)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    begun = {path.stem for path in tmp_path.glob("*.begun")}
    assert begun == {path.stem for path in tmp_path.glob("*.heard")}
    assert {name: end["status"] for name, end in ends(tmp_path / "pool").items()} == dict.fromkeys(begun, "stopped")
    assert "Traceback" not in said and not [*(tmp_path / "pool").rglob("*.lock")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_is_raised_when_the_cells_have_ended(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    threading.Thread(target=lambda: (wait_until((tmp_path / "a.begun").is_file), os.kill(os.getpid(), number))).start()
    with pytest.raises(interruption.Interrupted) as stopped, interruption.heard():
        Launch("basic", tmp_path / "pool").run([stub(tmp_path / "pool", name, WAITS.replace("NAME", name)) for name in "ab"])
    assert stopped.value.code == 128 + number
    assert (tmp_path / "a.heard").is_file() and not (tmp_path / "b.begun").exists()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_word_to_stop_from_another_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = Launch("basic", tmp_path / "pool")
    threading.Thread(target=lambda: (wait_until((tmp_path / "a.begun").is_file), started.stop())).start()
    started.run([stub(tmp_path / "pool", name, WAITS.replace("NAME", name)) for name in "ab"])
    assert started.stopped and (tmp_path / "a.heard").is_file() and not (tmp_path / "b.begun").exists()
    assert not interruption.asked()


def test_finished_weights_are_made_again_where_they_were_given_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [stub(tmp_path / "pool", name, "import sys; print(sys.argv[1:])") for name in ("new", "spent")]
    Launch("basic", tmp_path / "pool").run(cells, again=["spent"])
    said = {name: (tmp_path / "pool" / ".orders" / f"{name}.log").read_text() for name in ("new", "spent")}
    assert said == {"new": "[]\n", "spent": "['overwrite=true']\n"}


def test_a_launcher_that_gives_up_is_one_line_and_no_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        launch.Plugins, "instantiate_launcher", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no queue\nat all"))
    )
    assert Launch("basic", tmp_path).run([stub(tmp_path, "a", "pass")]) == set()
    assert caplog.messages == ["launcher=basic: no queue"]


def test_what_could_not_even_be_written_down_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".orders" / "a.log").mkdir(parents=True)
    Launch("basic", tmp_path).run([stub(tmp_path, "a", "pass")])
    assert caplog.messages == [
        f"a: {tmp_path}/.orders/a.log: Is a directory; something else lies there: move it, or choose another folder"
    ]


@pytest.mark.parametrize("launcher", launchers())
def test_every_launcher_composes_or_says_what_to_install(tmp_path, launcher):
    started = Launch(launcher, tmp_path)
    if not installed(launcher):
        file = f"requirements-{launch.INSTALL[launcher]}.txt"
        with pytest.raises(ValueError) as error:
            started.check()
        assert (
            str(error.value) == f"launcher={launcher}: is not installed here; pip install -r {file}" and (ROOT / file).is_file()
        )
        return
    started.check()
    composed = started._composed(started._settings).hydra.launcher
    if launcher.startswith("submitit"):
        assert composed.timeout_min >= 1440  # the plugin's own limit is an hour
        assert str(composed.submitit_folder).startswith(str(tmp_path))  # which all nodes must see


@pytest.mark.parametrize("name", ["joblib", "submitit"])
def test_what_a_launcher_needs_is_pinned_as_in_the_whole(name):
    lines = [line.partition("#")[0].strip() for line in (ROOT / f"requirements-{name}.txt").read_text().splitlines()]
    whole = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert f"hydra-{name}-launcher" in " ".join(lines) and {line for line in lines if line} <= {*whole}


def test_slurm_takes_all_that_its_plugin_knows(tmp_path):
    settings = {"partition": "gpu", "additional_parameters.constraint": "a100", "setup": ["module load cuda"], "gpus_per_node": 4}
    started = Launch("submitit_slurm", tmp_path, settings)
    started.check()
    composed = started._composed(started._settings).hydra.launcher
    assert (composed.partition, composed.additional_parameters.constraint, composed.gpus_per_node) == ("gpu", "a100", 4)
    assert started.slots == []  # the cluster hands out its GPUs


@pytest.mark.parametrize(
    "launcher, settings, sentence",
    [
        ("joblib", {"verbos": 1}, "launch.verbos=1: launcher=joblib has no such setting; did you mean verbose?"),
        (
            "submitit_slurm",
            {"partitoin": "gpu"},
            "launch.partitoin=gpu: launcher=submitit_slurm has no such setting; did you mean partition?",
        ),
        (
            "submitit_local",
            {"timeout_min": "long"},
            "launch.timeout_min=long: Value 'long' of type 'str' could not be converted to Integer",
        ),
        ("joblib", {"n_jobs": 4}, "launch.n_jobs=4: write parallel=N"),
        ("submitit_slurm", {"name": "mine"}, "launch.name=mine: the study gives its jobs a name of their own; leave it out"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, launcher, settings, sentence):
    with pytest.raises(ValueError) as error:
        Launch(launcher, tmp_path, settings).check()
    assert str(error.value) == sentence and not [*tmp_path.iterdir()]


def test_a_launcher_that_there_is_not(tmp_path):
    with pytest.raises(ValueError, match="launcher=jobli: write one of basic, .*; did you mean joblib"):
        Launch("jobli", tmp_path)


def test_places_and_what_does_not_fit_them(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="parallel=2: launcher=basic runs one after the other; write launcher=joblib"):
        Launch("basic", tmp_path, parallel=2).check()
    assert Launch("joblib", tmp_path, parallel=3).slots == ["cpu0", "cpu1", "cpu2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,GPU-7,0")
    assert visible_gpus() == ["2", "5", "GPU-7", "0"] == Launch("joblib", tmp_path).slots
    assert Launch("joblib", tmp_path, parallel=1, processes=2).slots == ["2", "5"]
    with pytest.raises(ValueError, match="processes=8: this machine has GPUs for 4; write no more"):
        Launch("joblib", tmp_path, processes=8).check()
    made = Launch("joblib", tmp_path, processes=2)._order(stub(Path("pool"), "a", "pass", processes=2), again=False)
    assert (made.takes, made.gpus) == (2, True)
