"""How far a cell is: what its folder, its lock and the end of its order say together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.utils.studies.test_cells import graph
from utils import ROOT, alive
from utils.files import write_json
from utils.runs.run import LOCK
from utils.studies.cells import Graph
from utils.studies.conduct import conduct, duration, give_up_weights, line, summary
from utils.studies.launch import Launch
from utils.studies.planning import Plan
from utils.studies.runner import BEHIND
from utils.studies.states import State, needed, ready, state_of, states

TARGET, ROW, ASKED, ORACLES = "target_s42", "npo_s0", "npo_s0.plain", [f"oracle_s{seed}" for seed in (100, 101, 102)]


@pytest.fixture
def made(tmp_path) -> Graph:
    return graph(tmp_path, rows={"npo": {"lr": 1e-5}})


def word(made: Graph, name: str, kept: tuple[str, ...] = ()) -> str:
    return states(made, kept)[name].word


def finish(made: Graph, *names: str, model: bool = True) -> None:
    for name in names:
        cell = made.cells[name]
        write = cell.folder / "model" if model and cell.script != "evaluate" else cell.folder
        write.mkdir(parents=True, exist_ok=True)
        write_json(cell.folder / "run.json", {"status": "finished", "seconds": 12.0})


def end(made: Graph, name: str, **facts: object) -> None:
    path = made.pool / BEHIND / f"{made.cells[name].folder.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, facts)


def test_from_waiting_to_finished(made):
    cell = made.cells[ROW]
    assert word(made, ROW) == "waiting"
    lock = made.pool / BEHIND / f"{cell.folder.name}.lock"
    lock.parent.mkdir(parents=True)
    sign = alive.seize(lock)
    assert word(made, ROW) == "running"
    sign.remove()
    end(made, ROW, status="stopped")
    assert word(made, ROW) == "interrupted"
    end(made, ROW, status="failed", told="step 3: loss is not finite")
    assert states(made)[ROW] == State("failed", "step 3: loss is not finite")
    assert states(made)[ASKED] == State("blocked", f"{ROW} failed")
    finish(made, ROW)
    assert states(made)[ROW] == State("finished", seconds=12.0)  # by hand, whatever a study said before
    assert word(made, ASKED) == "waiting"


def test_a_run_that_a_person_started_by_hand_is_running(made):
    cell = made.cells[ROW]
    cell.folder.mkdir(parents=True)
    sign = alive.seize(cell.folder / LOCK)
    (cell.folder / "config.yaml").touch()
    write_json(cell.folder / "run.json", {"status": "running", "steps": 40})
    assert states(made)[ROW] == State("running")
    (cell.folder / "log.jsonl").write_text('{"step": 0}\n')
    assert states(made)[ROW].step == 0  # and no time is told yet
    (cell.folder / "log.jsonl").write_text('{"step": 5}\n{"step": 10}\n{"st')
    now = time.time()
    os.utime(cell.folder / "config.yaml", (now - 100, now - 100))
    os.utime(cell.folder / "log.jsonl", (now, now))
    state = states(made)[ROW]
    assert (state.step, state.steps, round(state.left or 0, -1)) == (10, 40, 300)  # 30 steps of 10 s
    assert line(cell, state).split(None, 1) == ["running", f"{ROW} 10/40, 5 min left"]
    sign.remove()
    assert word(made, ROW) == "interrupted"


def test_who_was_killed_is_interrupted_and_not_running_for_ever(made):
    cell = made.cells[ROW]
    end(made, ROW, status="running")
    locks = [made.pool / BEHIND / f"{cell.folder.name}.lock", cell.folder / LOCK]
    cell.folder.mkdir(parents=True)
    code = "import os, sys; from pathlib import Path; from utils import alive; "
    code += "[alive.seize(Path(path)) for path in sys.argv[1:]]; os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, *map(str, locks)], cwd=ROOT)
    assert all(lock.exists() for lock in locks) and word(made, ROW) == "interrupted"
    finish(made, TARGET)
    assert ROW in [cell.name for cell in ready(made, states(made))]


def test_a_region_is_there_when_its_file_is(tmp_path):
    common = {"method": "memflex", "model.path": "@target", "split": "forget10"}
    made = graph(tmp_path, regions={"region": common}, rows={"memflex": {"method.region.file": "@region/region.json"}})
    cell = made.cells["region_s42"]
    assert cell.command()[:2] == ["python", "scripts/localize.py"] and word(made, "region_s42") == "waiting"
    cell.folder.mkdir(parents=True)
    (cell.folder / "region.json").write_text("{}")
    assert word(made, "region_s42") == "finished" and made.cells["memflex_s0"].needs == (TARGET, "region_s42")


def test_what_is_needed_and_what_can_begin(made):
    assert {cell.name for cell in ready(made, states(made))} == {TARGET, *ORACLES}
    order = [cell.name for cell in needed(made, states(made))]
    assert all(order.index(need) < order.index(name) for name in order for need in made.cells[name].needs)
    assert {*order} == {*made.cells}
    finish(made, TARGET, *ORACLES)
    assert {cell.name for cell in ready(made, states(made))} == {ROW, f"{TARGET}.plain", *(f"{name}.plain" for name in ORACLES)}
    end(made, ROW, status="failed", told="no")
    assert ROW not in {cell.name for cell in ready(made, states(made))}


def test_weights_are_needed_again_only_by_who_reads_them(made):
    """keep=scores: the row's weights are gone when its evaluation is done; another evaluation makes them again."""
    finish(made, TARGET, *ORACLES, ASKED, *(f"{name}.plain" for name in (TARGET, *ORACLES)))
    finish(made, ROW, model=False)
    assert word(made, ROW) == "spent" and not needed(made, states(made))
    more = graph(made.pool, rows={"npo": {"lr": 1e-5}}, evaluations={"plain": {}, "asked": {"probe": "paraphrase"}})
    assert [cell.name for cell in ready(more, states(more)) if cell.entry.name == "npo"] == [ROW]
    assert [cell.name for cell in needed(more, states(more)) if cell.entry.name == "npo"] == [ROW, "npo_s0.asked"]


def test_what_the_archive_keeps_needs_nothing(made):
    kept = tuple(cell.folder.name for cell in made.evaluations())
    assert word(made, ASKED, kept) == "kept" and not needed(made, states(made, kept))


@pytest.mark.parametrize(
    "keep, adapter, gone", [("model", False, False), ("scores", True, True), ("adapter", True, False), ("adapter", False, True)]
)
def test_what_of_a_row_stays(tmp_path, keep, adapter, gone):
    made = graph(tmp_path, rows={"npo": {"lr": 1e-5}}, keep=keep)
    finish(made, *made.cells)
    model = made.cells[ROW].folder / "model"
    (model / "adapter_config.json" if adapter else model / "model.safetensors").touch()
    assert give_up_weights(made, states(made)) == ([ROW] if gone else [])
    assert model.exists() != gone and (made.cells[TARGET].folder / "model").is_dir()
    assert not [*made.cells[ROW].folder.glob("*.gone")]


def test_weights_stay_while_somebody_may_still_read_them(tmp_path):
    made = graph(tmp_path, rows={"npo": {"lr": 1e-5}}, keep="scores")
    finish(made, *(name for name in made.cells if name != ASKED))
    assert give_up_weights(made, states(made)) == [] and (made.cells[ROW].folder / "model").is_dir()


def test_weights_go_at_once(tmp_path, monkeypatch):
    """Killed while they are deleted: half of them do not pass for a model."""
    made = graph(tmp_path, rows={"npo": {"lr": 1e-5}}, keep="scores")
    finish(made, *made.cells)

    def killed(path: Path, **_: object) -> None:
        if Path(path).exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("utils.studies.conduct.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        give_up_weights(made, states(made))
    assert word(made, ROW) == "spent"


def test_what_runs_elsewhere_is_waited_for_and_not_run_again(made, monkeypatch):
    """Two studies at once, or one in two shells."""
    monkeypatch.setattr("utils.studies.conduct.SHOWN_EVERY", 0.02)
    ran: list[str] = []
    said: list[str] = []
    lock = made.pool / BEHIND / f"{made.cells[TARGET].folder.name}.lock"
    lock.parent.mkdir(parents=True)
    held = [alive.seize(lock)]

    class Other(Launch):
        def run(self, cells, again=()):
            ran.extend(cell.name for cell in cells)
            finish(made, *(cell.name for cell in cells))
            return set()

    # The other one is interrupted, and leaves it unfinished.
    monkeypatch.setattr("utils.studies.conduct.time.sleep", lambda _: held and held.pop().remove())
    conduct(lambda: Plan(made.study, made, archive=()), Other("basic", made.pool), said.append)
    assert f"waiting for what is run elsewhere: {TARGET}" in said
    assert sorted(ran) == sorted(made.cells) and ran.index(TARGET) > max(ran.index(name) for name in ORACLES)


def test_what_failed_is_tried_once_in_a_call_and_blocks_what_needs_it(made):
    ran: list[str] = []

    class Failing(Launch):
        def run(self, cells, again=()):
            for cell in cells:
                ran.append(cell.name)
                if cell.name == TARGET:
                    end(made, TARGET, status="failed", told="no")
                else:
                    finish(made, cell.name)
            return set()

    end(made, TARGET, status="failed", told="of an earlier call")
    conduct(lambda: Plan(made.study, made, archive=()), Failing("basic", made.pool), lambda _: None)
    assert ran.count(TARGET) == 1 and ROW not in ran and f"{ORACLES[0]}.plain" in ran
    assert summary(states(made)) == "6 of 10 cells done (3 blocked, 1 failed)"


def test_times_as_people_say_them():
    assert [duration(seconds) for seconds in (42, 420, 12600)] == ["42 s", "7 min", "3.5 h"]


def test_a_damaged_end_is_none(made):
    end(made, ROW, status="failed")
    path = made.pool / BEHIND / f"{made.cells[ROW].folder.name}.json"
    path.write_text(json.dumps({"status": "failed"})[:9])
    assert state_of(made.cells[ROW], made.pool).word == "waiting"
