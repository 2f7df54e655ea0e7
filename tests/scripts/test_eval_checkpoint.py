"""A checkpoint is evaluated with the settings of the run that made it; what the user says comes first."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from scripts import eval_checkpoint
from tests.runs import SMALL, compose_settings, run
from utils import ROOT
from utils.runs.cli import find_problem

SCRIPTS = sorted(path for path in (ROOT / "scripts" / "eval").glob("*.sh") if path.stem != "all")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    options = ("split=full", "steps=1", "benchmark.truth_ratio=arithmetic", "checkpoint=none", *SMALL)
    run(folder, "finetune", "model=tiny", "benchmark=tofu", *options, "out=run")
    return folder / "run"


def started(monkeypatch, *words: str) -> list[str]:
    """Arguments that evaluate.py would be started with."""
    found = []
    monkeypatch.setattr(eval_checkpoint.os, "execv", lambda program, arguments: found.extend(arguments))
    eval_checkpoint.main(list(words))
    assert found[:2] == [sys.executable, str(ROOT / "evaluate.py")] and find_problem("evaluate", found[2:]) is None
    return found[2:]


def test_a_run_brings_its_settings_along(trained, monkeypatch):
    words = started(monkeypatch, "tofu", "--measure", "membership,fluency", str(trained), "oracle=none")
    cfg = compose_settings("evaluate", *words)
    assert (cfg.benchmark.truth_ratio, cfg.model.path, cfg.out) == ("arithmetic", str(trained), f"{trained}/eval_tofu")
    assert list(cfg.measure) == ["membership", "fluency"] and cfg.oracle == "none" and cfg.split == "forget10"
    words = started(
        monkeypatch, "tofu", str(trained), "benchmark.truth_ratio=geometric", "out=x", "--measure", "fluency", "measure=[]"
    )
    cfg = compose_settings("evaluate", *words)
    assert (cfg.benchmark.truth_ratio, cfg.out, dict(cfg.measure)) == ("geometric", "x", {})


def test_an_unlearned_model_is_asked_about_what_it_forgot(trained, tmp_path, monkeypatch):
    run(tmp_path, "unlearn", "method=ga", f"model.path={trained}", "split=forget01", "steps=1", "checkpoint=none", "out=ga")
    cfg = compose_settings("evaluate", *started(monkeypatch, "tofu", str(tmp_path / "ga")))
    assert (cfg.split, cfg.model.path) == ("forget01", str(tmp_path / "ga"))


def test_another_benchmark_or_a_model_of_the_hub(trained, monkeypatch):
    words = started(monkeypatch, "knowundo", str(trained))
    assert compose_settings("evaluate", *words).out == f"{trained}/eval_knowundo"
    words = started(monkeypatch, "utility", "owner/model", "model=opt-1.3b", "data_root=hub")
    cfg = compose_settings("evaluate", *words)
    assert (cfg.model.path, cfg.data_root, cfg.out) == ("owner/model", "hub", "runs/evaluate/model/utility")


def test_what_is_no_finished_run_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"script": "evaluate", "status": "finished", "settings": {}}')
    with pytest.raises(SystemExit, match="holds no finished run of finetune.py or unlearn.py"):
        eval_checkpoint.main(["tofu", str(tmp_path)])
    with pytest.raises(SystemExit, match="there is no such benchmark; did you mean tofu"):
        eval_checkpoint.main(["tofo", str(tmp_path)])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_name_benchmarks_and_measures(script):
    (benchmark, measures), *_ = re.findall(r"eval_checkpoint\.py (\w+)(?: --measure ([\w,]+))?", script.read_text("utf-8"))
    chosen = [f"measure=[{measures}]"] if measures else []
    assert script.stem == benchmark and find_problem("evaluate", [f"benchmark={benchmark}", *chosen]) is None


def test_one_script_evaluates_everything_with_measures_that_exist():
    script = (ROOT / "scripts" / "eval" / "all.sh").read_text("utf-8")
    named = dict(re.findall(r"^evaluate (\w+) ([\w,]+) --", script, re.MULTILINE))
    (rest,) = re.findall(r"for benchmark in ([\w ]+);", script)
    every = {path.stem for path in (ROOT / "config" / "benchmark").glob("*.yaml")}
    assert {*named, *rest.split()} == every - {"own"}  # that is about a file of the user's
    for benchmark, measures in named.items():
        assert find_problem("evaluate", [f"benchmark={benchmark}", f"measure=[{measures}]"]) is None


def test_there_are_five_scripts():
    assert [path.stem for path in SCRIPTS] == ["completion", "knowundo", "muse", "tofu", "utility"]
