"""One order is one process: its output, its end, its place on the machine, and how it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.utils.studies.stubs import ends, order, wait_until
from utils import ROOT, alive
from utils.files import read_json, write_json
from utils.studies import runner
from utils.studies.runner import Order, folder_of, run_cell, stop, taken

HEARS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open('heard', 'w').close(), sys.exit(143)))
open('begun', 'w').close()
time.sleep(60)
"""
LATE = "failing\rTraining: 100%|##########| 20/20 [00:01<00:00, 14.2it/s]\n"
TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nRuntimeError: out of luck\nand more of it\n'
AGENT = (
    "E1127 10:00:00.0 42 torch/distributed/elastic/multiprocessing/api.py:882] failed (exitcode: 1)\nTraceback (most recent call "
)
AGENT += (
    "last):\n  File 'x'\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n======\nunlearn.py FAILED\n======\n"
)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(runner, "LOOK", 0.05)
    monkeypatch.setattr(runner, "POLL", 0.02)


def run(made: Order) -> str:
    return run_cell(OmegaConf.create({"order": str(made.path)}))


def test_what_succeeds_leaves_its_output_and_its_end(tmp_path):
    made = order(tmp_path, "cell", "print('all is well'); open('here', 'w')")
    assert run(made) == "finished"
    assert made.output.read_text() == "all is well\n"
    end = read_json(made.end)
    assert (end["status"], end["code"], end["told"], end["command"]) == ("finished", 0, "", list(made.command))
    assert (tmp_path / "here").is_file()  # in the folder of the study, where a person would type it
    assert not made.end.with_suffix(".lock").exists()


def test_scripts_are_those_of_the_project_wherever_the_study_was_started(tmp_path):
    assert runner._typed(["python", "unlearn.py", "out=a"]) == [sys.executable, str(ROOT / "unlearn.py"), "out=a"]
    several = runner._typed(["torchrun", "--standalone", "--nproc_per_node=2", "scripts/x.py", "file=b.py"])
    assert several[1:] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "scripts/x.py"),
        "file=b.py",
    ]


@pytest.mark.parametrize(
    "said, sentence",
    [
        ("lr=-1: write a number above 0", "lr=-1: write a number above 0"),
        (f"rows=7: write less\n{LATE}", "failing"),
        ("rows=7: write less\n  5%|5   | 1/20 [00:01<?, ?it/s]", "rows=7: write less"),
        (f"loading\n{TRACE}W: a warning at the exit\n", "RuntimeError: out of luck"),
        (f"{TRACE}{AGENT}", "RuntimeError: out of luck"),
        (f"oracle=x: there is none\n{AGENT}", "oracle=x: there is none"),
        ("a" * 5000, "a" * runner.LONGEST),
        ("", "ended with 3 and said nothing"),
    ],
)
def test_why_it_failed_is_one_sentence(tmp_path, said, sentence):
    made = order(tmp_path, "cell", f"import sys; sys.stderr.write({said!r}); sys.exit(3)")
    assert run(made) == "failed"
    assert (read_json(made.end)["told"], read_json(made.end)["code"]) == (sentence, 3)


def test_a_long_output_is_read_from_its_end(tmp_path):
    made = order(tmp_path, "cell", "print('x' * 99 + '\\n' * 2000000); print('the reason'); raise SystemExit(1)")
    assert run(made) == "failed" and read_json(made.end)["told"] == "the reason"


def test_a_process_that_was_killed_says_by_what(tmp_path):
    made = order(tmp_path, "cell", "import os; os.kill(os.getpid(), 9)")
    assert run(made) == "failed" and "SIGKILL" in read_json(made.end)["told"]


@pytest.mark.parametrize("code", ["raise SystemExit(130)", "raise SystemExit(143)", "import os; os.kill(os.getpid(), 15)"])
def test_a_process_that_somebody_else_interrupted_has_not_failed(tmp_path, code):
    assert run(order(tmp_path, "cell", code)) == "stopped"


def test_the_word_to_stop_ends_what_runs_by_sigterm_and_lets_nothing_begin(tmp_path):
    made = order(tmp_path, "cell", HEARS)
    thread = threading.Thread(target=lambda: (wait_until((tmp_path / "begun").is_file), stop(tmp_path / ".orders", "launch")))
    thread.start()
    assert run(made) == "stopped"
    thread.join()
    assert (tmp_path / "heard").is_file() and ends(tmp_path)["cell"]["status"] == "stopped"
    assert run(order(tmp_path, "next", "open('ran', 'w')")) == "stopped"
    assert not (tmp_path / "ran").exists() and "next" not in ends(tmp_path)


def test_the_word_to_stop_is_for_one_launch(tmp_path):
    stop(tmp_path / ".orders", "another")
    assert run(order(tmp_path, "cell", "pass")) == "finished"


def test_who_does_not_end_when_asked_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.3)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); open('begun', 'w').close(); time.sleep(60)"
    made = order(tmp_path, "cell", deaf)
    threading.Thread(target=lambda: (wait_until((tmp_path / "begun").is_file), stop(tmp_path / ".orders", "launch"))).start()
    assert run(made) == "stopped" and read_json(made.end)["code"] == -signal.SIGKILL


def test_a_signal_to_the_worker_is_passed_on(tmp_path):
    made = order(tmp_path, "cell", HEARS)
    code = "import sys; from omegaconf import OmegaConf; from utils.studies.runner import run_cell; "
    code += "print(run_cell(OmegaConf.create({'order': sys.argv[1]})))"
    worker = subprocess.Popen([sys.executable, "-c", code, str(made.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_until((tmp_path / "begun").is_file)
    worker.send_signal(signal.SIGTERM)
    assert worker.communicate(timeout=20)[0] == "stopped\n"
    assert (tmp_path / "heard").is_file() and ends(tmp_path)["cell"]["status"] == "stopped"


def test_whatever_ends_the_wait_ends_the_process(tmp_path, monkeypatch):
    """As submitit's own handler does, which leaves by SystemExit when the time of a job is up."""
    made = order(tmp_path, "cell", HEARS)

    def leave(_: Order) -> bool:
        if made.end.is_file():
            wait_until((tmp_path / "begun").is_file)
            raise SystemExit(1)
        return False

    monkeypatch.setattr(runner, "_stopped", leave)
    with pytest.raises(SystemExit):
        run(made)
    assert (tmp_path / "heard").is_file() and ends(tmp_path)["cell"]["status"] == "stopped"
    assert not made.end.with_suffix(".lock").exists()


def test_two_that_carry_out_one_cell_run_it_once(tmp_path):
    made = order(tmp_path, "cell", "import time; open('runs', 'a').write('x'); time.sleep(0.4)")
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(run(made))) for _ in range(2)]
    threads[0].start()
    wait_until((tmp_path / "runs").is_file)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["finished", "taken"] and (tmp_path / "runs").read_text() == "x"


def test_what_another_launch_finished_meanwhile_is_not_run_again(tmp_path):
    made = order(tmp_path, "cell", "open('runs', 'a').write('x')")
    time.sleep(0.02)
    write_json(made.end, {"status": "finished"})
    assert run(made) == "finished" and not (tmp_path / "runs").exists()
    made.write()  # given anew: whoever orders it knows why
    time.sleep(0.02)
    os.utime(made.path)
    assert run(made) == "finished" and (tmp_path / "runs").read_text() == "x"


def test_a_dead_workers_lock_is_taken_over(tmp_path):
    made = order(tmp_path, "cell", "pass")
    code = "import os, sys; from pathlib import Path; from utils import alive; "
    code += "alive.seize(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    dead = subprocess.Popen([sys.executable, "-c", code, str(made.end.with_suffix(".lock"))], cwd=ROOT)
    dead.wait()
    assert made.end.with_suffix(".lock").exists()
    assert run(made) == "finished"


def test_no_two_are_in_one_place(tmp_path):
    slots = ("cpu0", "cpu1")
    enter = "import os, time; n = os.environ['CUDA_VISIBLE_DEVICES']; os.mkdir('in' + n); time.sleep(0.15); os.rmdir('in' + n)"
    orders = [order(tmp_path, f"cell{number}", enter, slots, gpus=True) for number in range(5)]
    threads = [threading.Thread(target=run, args=(made,)) for made in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {end["status"] for end in ends(tmp_path).values()} == {"finished"}  # mkdir fails where somebody is
    assert {place for end in ends(tmp_path).values() for place in end["places"]} == set(slots)


def test_who_takes_several_places_waits_with_none(tmp_path):
    folder = tmp_path / ".orders" / "slots" / runner.socket.gethostname()
    folder.mkdir(parents=True)
    busy = alive.seize(folder / "1")
    made, got = order(tmp_path, "cell", "pass", ("0", "1", "2"), takes=3, gpus=True), []

    def wait() -> None:
        with taken(made) as places:
            got.append(list(places))

    thread = threading.Thread(target=wait)
    thread.start()
    seen = set()
    for _ in range(20):
        seen.add(len({*folder.iterdir()} - {folder / "1"}))
        time.sleep(0.02)
    assert 0 in seen and not got
    busy.remove()
    thread.join(10)
    assert got == [["0", "1", "2"]] and not list(folder.iterdir())


def test_who_waits_for_a_place_hears_the_word_to_stop(tmp_path):
    folder = tmp_path / ".orders" / "slots" / runner.socket.gethostname()
    folder.mkdir(parents=True)
    busy = alive.seize(folder / "cpu0")
    stopper = threading.Timer(0.2, stop, (tmp_path / ".orders", "launch"))
    stopper.start()
    assert run(order(tmp_path, "cell", "open('ran', 'w')", ("cpu0",))) == "stopped"
    busy.remove()
    assert not (tmp_path / "ran").exists()


def test_places_are_those_of_a_machine_and_may_bear_any_name(tmp_path, monkeypatch):
    one = order(tmp_path, "a", "pass", ("MIG-GPU-5/1/0",), gpus=True)
    with taken(one) as here:
        monkeypatch.setattr(runner.socket, "gethostname", lambda: "another")
        with taken(order(tmp_path, "b", "pass", ("MIG-GPU-5/1/0",), gpus=True)) as there:
            assert here == there == ["MIG-GPU-5/1/0"]


def test_several_on_a_cpu_share_its_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    made = order(tmp_path, "cell", "import os; print(os.environ.get('OMP_NUM_THREADS'))", ("cpu0", "cpu1"))
    run(made)
    assert made.output.read_text() == "4\n"


def test_a_full_disk_is_one_sentence_and_nothing_is_raised(tmp_path, monkeypatch):
    made = order(tmp_path, "cell", "pass")

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(runner, "write_json", full)
    assert run(made) == f"{made.end}: No space left on device; make room on the disk, or choose another one"
    assert run_cell(OmegaConf.create({"order": str(folder_of(tmp_path, "gone") / "x.order")})).startswith("TypeError")
