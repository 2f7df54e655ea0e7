"""The command line of trajectories: a run with snapshots in, evaluations, a table and a page out, with the real evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scripts.trajectory import main, sorted_words
from tests.runs import QUICK_EVALUATION, launch, metrics, run, target
from tests.utils.report.test_page import Page
from utils.files import read_json

DIALS = ("oracle=none", *QUICK_EVALUATION)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with `npo`: four steps from the target of the tests, and a snapshot after every second."""
    place = tmp_path_factory.mktemp("trained")
    dials = ("method=npo", "split=forget05", "lr=1e-2", "steps=4", "batch_size=2", "warmup=0", "snapshots=2", "out=npo")
    run(place, "unlearn", *dials, f"model.path={target()}")
    return place


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    shutil.copytree(trained / "npo", tmp_path / "npo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_step_with_one_command(here, capsys):
    main(["npo", *DIALS])
    assert capsys.readouterr().out.splitlines()[-3:] == [f"npo/trajectory/trajectory.{end}" for end in ("json", "md", "html")]
    (found,) = read_json(here / "npo/trajectory/trajectory.json")["runs"]
    assert found["steps"] == [0, 2, 4] and found["models"] == [str(target()), "npo/snapshots/2", "npo"]
    numbers = found["metrics"]["forget_prob"]
    for place, folder in enumerate(found["evaluations"]):
        entry = metrics(here / folder)["forget_prob"]
        assert (entry["value"], entry["n"], entry["ci95"]) == tuple(numbers[key][place] for key in ("value", "n", "ci95"))
    assert len(set(numbers["value"])) == 3  # three different models
    assert read_json(here / "npo/trajectory/2/run.json")["settings"]["split"] == "forget05"
    Page((here / "npo/trajectory/trajectory.html").read_text("utf-8"))
    assert (here / "npo/trajectory/trajectory.md").read_text("utf-8").count("\n|") == 2 + 3
    # The same command again evaluates nothing, and other metrics can be shown.
    before = {path: path.stat().st_mtime_ns for path in here.glob("npo/trajectory/*/scores.parquet")}
    main(["npo", *DIALS, "--metrics", "retain_prob,forget_prob", "--out", "shown"])
    assert {path: path.stat().st_mtime_ns for path in here.glob("npo/trajectory/*/scores.parquet")} == before and len(before) == 3
    assert "| step | R-Prob ↑ | F-Prob → oracle |" in " ".join((here / "shown/trajectory.md").read_text("utf-8").split())


def test_a_damaged_snapshot_costs_only_itself(here, capsys):
    (here / "npo/snapshots/2/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(SystemExit) as end:
        main(["npo", *DIALS])
    assert str(end.value) == "without numbers, for the reasons above: npo, step 2; the same command tries them again"
    (found,) = json.loads((here / "npo/trajectory/trajectory.json").read_text("utf-8"))["runs"]
    assert found["steps"] == [0, 4] and list(found["failed"]) == ["step 2"]
    assert "npo, step 2 (npo/snapshots/2) failed and is left out: " in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_measure_the_same(here):
    main(["npo", *DIALS, "--out", "one"])
    shutil.rmtree(here / "npo/trajectory")
    done = launch(here, "scripts/trajectory.py", "npo", *DIALS, "--out", "two", processes=2)
    assert done.code == 0, done.err
    one, two = (read_json(here / out / "trajectory.json")["runs"][0] for out in ("one", "two"))
    assert one["steps"] == two["steps"] == [0, 2, 4]
    for name, numbers in one["metrics"].items():
        assert two["metrics"][name]["value"] == pytest.approx(numbers["value"], abs=1e-5)


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "nowhere: there is no such run folder; give run folders, and settings of evaluate.py as key=value"),
        (["split=forget05"], "there is no run to follow; give the folder of a run that was trained with snapshots=N"),
        (["npo", "npo"], "2 runs: say with --out DIR where the page that compares them goes"),
        (["npo", "splt=forget05"], "splt=forget05: there is no key splt; did you mean split"),
        (["npo", "model.path=x"], "model.path=x: model.path is set for every run by itself; leave it out"),
        (["npo", "resamples=100,200"], "resamples=100,200: several values are a sweep; add -m"),
        (["npo"], "npo, step 0 ("),  # no retain oracle is named
        (["npo/model"], "npo/model is no run of unlearn.py or finetune.py"),
    ],
)
def test_a_mistake_is_one_sentence(here, words, message):
    with pytest.raises(SystemExit) as refusal:
        main(words)
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)
    assert not (here / "npo/trajectory").exists()


def test_words_in_any_order(here):
    assert sorted_words(["split=forget05", "npo", "rows=3"]) == ([Path("npo")], ["split=forget05", "rows=3"])


def test_help_shows_how_to_call_it(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python scripts/trajectory.py runs/npo oracle=runs/retain90" in capsys.readouterr().out
