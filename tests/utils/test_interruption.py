"""Ctrl-C and SIGTERM: a step is finished and kept, everything else ends where it is, with one line that says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import utils.runs.score
from tests.runs import (
    QUICK_EVALUATION,
    ROOT,
    SIX_STEPS,
    Finished,
    assert_same_curve,
    assert_same_weights,
    losses,
    run,
    script,
    target,
    weights,
)
from utils import interruption
from utils.files import read_json
from utils.interruption import Interrupted, deferred, heard
from utils.runs.run import Run
from utils.training.resumable import last_checkpoint, step_of

STEPS = (*SIX_STEPS, f"model.path={target()}")
PRESS = {130: signal.SIGINT, 143: signal.SIGTERM}


def test_signals_end_what_may_be_cut_short_and_wait_for_what_may_not():
    before = {number: signal.getsignal(number) for number in PRESS.values()}
    for code, number in PRESS.items():
        with pytest.raises(Interrupted) as stop, heard():
            signal.raise_signal(number)
        assert stop.value.code == code and "the same command goes on where it stopped" in str(stop.value)
        reached = []
        with pytest.raises(Interrupted) as stop, heard(), deferred():
            signal.raise_signal(number)
            reached.append(interruption.asked())
        assert reached == [number] and stop.value.code == code and interruption.asked() == 0
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture
def pressed(monkeypatch):
    """A signal arrives while step `at` of the next run is recorded."""

    def press(at: int, number: int, **at_folder: str) -> None:
        def record(self, entry):
            original(self, entry)
            if entry["step"] == at and "loss" in entry and self.folder.name == at_folder.get("folder", self.folder.name):
                signal.raise_signal(number)

        monkeypatch.setattr(Run, "record", record)

    original = Run.record
    yield press


@pytest.mark.parametrize("code, at", [pytest.param(130, 3, marks=pytest.mark.slow), (143, 5)])
def test_the_step_is_finished_and_the_same_command_ends_as_if_nothing_had_been(tmp_path, pressed, code, at):
    pressed(at, PRESS[code])
    finished = script(tmp_path, "unlearn", *STEPS, "out=run")
    assert finished.code == code and "Traceback" not in finished.err
    reached = step_of(last_checkpoint(tmp_path / "run" / "checkpoints"))
    assert reached == at + 1  # a step is recorded after its end: the next had begun
    assert finished.last_words == f"interrupted after step {reached} of 6; the same command goes on from there"
    assert read_json(tmp_path / "run" / "run.json")["status"] == "running"
    assert not (tmp_path / "run" / "lock.json").exists() and not (tmp_path / "run" / "model").exists()
    pressed(99, PRESS[code])
    again = script(tmp_path, "unlearn", *STEPS, "out=run")
    assert again.code == 0 and f"resuming at step {reached} of 6" in again.out, again.err
    run(tmp_path, "unlearn", *STEPS, "out=whole")
    assert_same_curve(tmp_path / "run", tmp_path / "whole", 0.0)
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"), 0.0)


def test_a_model_that_is_trained_is_written(tmp_path, pressed):
    pressed(6, signal.SIGTERM)
    finished = script(tmp_path, "unlearn", *STEPS, "out=run")
    assert finished.code == 143 and finished.last_words == "interrupted; what was begun is finished"
    assert read_json(tmp_path / "run" / "run.json")["status"] == "finished" and (tmp_path / "run" / "model").exists()


def test_without_checkpoints_it_says_that_nothing_was_kept(tmp_path, pressed):
    pressed(3, signal.SIGTERM)
    finished = script(tmp_path, "unlearn", *STEPS, "checkpoint=none", "out=run")
    assert finished.code == 143 and last_checkpoint(tmp_path / "run" / "checkpoints") is None
    assert "of 6; the same command begins again (checkpoint=none: nothing of it was kept)" in finished.last_words


@pytest.mark.slow
def test_a_sweep_says_which_of_its_runs_are_done(tmp_path, pressed):
    pressed(2, signal.SIGINT, folder="ga")
    sweep = ("-m", *(word for word in STEPS if not word.startswith("method")), "method=npo_rt,ga,kl", "out=runs/${method.name}")
    finished = script(tmp_path, "unlearn", *sweep)
    assert finished.code == 130
    interrupted, done = finished.err.strip().splitlines()[-2:]
    assert interrupted.startswith("interrupted after step ")
    assert done == "sweep: runs/npo_rt done; it was at runs/ga. The same command skips what is finished"
    assert not (tmp_path / "runs" / "kl").exists()


@pytest.mark.slow
def test_a_part_that_has_risen_far_enough_still_ends_training_after_an_interruption(tmp_path, pressed):
    """The step that ends training is no checkpoint: whoever resumed from it would not know that it was the last."""
    ga = (
        "split=forget05",
        "batch_size=4",
        "epochs=2",
        "warmup=1",
        "optimizer=sgd",
        "lr=0.5",
        "model=tiny",
        f"model.path={target()}",
    )
    ga += ("method=ga", "checkpoint=1")
    run(tmp_path, "unlearn", *ga, "out=whole")
    parts = [record["forget_nll"] for record in losses(tmp_path / "whole")]
    stop = "+method.stop={part: forget_nll, above: %s}" % (parts[2] - 1e-4)
    pressed(3, signal.SIGTERM)
    finished = script(tmp_path, "unlearn", *ga, stop, "out=run")
    if finished.code:
        pressed(99, signal.SIGTERM)
        assert finished.code == 143 and script(tmp_path, "unlearn", *ga, stop, "out=run").code == 0
    assert [record["step"] for record in losses(tmp_path / "run")] == [1, 2, 3]


def test_an_evaluation_keeps_what_it_has_computed(tmp_path, monkeypatch):
    original = utils.runs.score.continue_prompts

    def told_to_stop(*arguments):
        signal.raise_signal(signal.SIGTERM)

    words = (
        "split=forget05",
        "model=tiny",
        f"model.path={target()}",
        *QUICK_EVALUATION,
        "oracle=none",
        "cache=cache",
        "out=eval",
    )
    monkeypatch.setattr(utils.runs.score, "continue_prompts", told_to_stop)
    finished = script(tmp_path, "evaluate", *words)
    assert finished.code == 143 and finished.last_words == "interrupted; the same command goes on where it stopped"
    assert list((tmp_path / "cache").glob("*/values-*.safetensors"))
    monkeypatch.setattr(utils.runs.score, "continue_prompts", original)
    monkeypatch.setattr("utils.evaluation.scoring.answer_statistics", lambda *_: pytest.fail("scored again"))
    assert script(tmp_path, "evaluate", *words).code == 0


def started(folder: Path, *words: str, processes: int = 1) -> subprocess.Popen:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=29713"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*start, str(ROOT / "unlearn.py"), *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(folder: Path, process: subprocess.Popen, count: int) -> None:
    until = time.monotonic() + 200
    while len(losses(folder)) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()


def ended(process: subprocess.Popen) -> Finished:
    out, err = process.communicate(timeout=100)
    return Finished(process.returncode, out, err)


ENDLESS = (*(word for word in STEPS if not word.startswith("epochs")), "epochs=50000", "out=run", "checkpoint=1000m")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path):
    slow_step = f"""
import runpy, sys, time
sys.path.insert(0, {str(ROOT)!r})
from utils.runs.run import Run
original = Run.record
def record(self, entry):
    original(self, entry)
    time.sleep(100)
Run.record = record
sys.argv[0] = "unlearn.py"
runpy.run_path({str(ROOT / "unlearn.py")!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", slow_step, *ENDLESS]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "run", process, 1)
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    finished = ended(process)
    assert finished.code == 130 and "finishing this step; Ctrl-C again ends at once" in finished.err


@pytest.mark.slow
def test_all_processes_stop_after_the_same_step_whichever_was_told(tmp_path):
    process = started(tmp_path, *ENDLESS, processes=2)
    wait_for_steps(tmp_path / "run", process, 3)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGTERM)  # not the main process
    finished = ended(process)
    assert finished.code != 0 and finished.err.count("interrupted after step ") == 1
    checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in checkpoint.iterdir()}
    assert f"interrupted after step {step_of(checkpoint)} of " in finished.err
