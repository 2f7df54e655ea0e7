"""A retain oracle never saw what is to be forgotten: told by the rows that its run and those before it read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.runs import QUICK_EVALUATION, SMALL, metrics, run, target
from utils import ROOT
from utils.files import read_json, write_json
from utils.runs.settings import SettingsError

STEPS = ("steps=1", "batch_size=2", "warmup=0", "checkpoint=none")
SPLITS = {"target": "full", "retain90": "retain90", "retain99": "retain99"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models memorised on three splits, one unlearned, and one that began with the model of all rows."""
    where = tmp_path_factory.mktemp("oracles")
    for name, split in SPLITS.items():
        run(where, "finetune", *SMALL, *STEPS, f"split={split}", f"out=runs/{name}")
    run(where, "unlearn", "method=ga", "model.path=runs/target", "split=forget10", *STEPS, "out=runs/ga")
    run(where, "finetune", "model.path=runs/target", *STEPS, "split=retain90", "out=runs/later")
    return where


def evaluate(folder: Path, *words: str, out: str = "eval") -> Path:
    run(folder, "evaluate", "model.path=runs/ga", *QUICK_EVALUATION, *words, "overwrite=true", f"out={out}")
    return folder / out


def test_a_model_of_the_rest_is_an_oracle(folder):
    found = evaluate(folder, "split=forget10", "oracle=runs/retain90")
    assert "forget_quality" in metrics(found)
    assert "forget_quality" in metrics(evaluate(folder, "split=forget01", "oracle=runs/retain99", out="one"))


@pytest.mark.parametrize(
    ("oracle", "reader", "seen"),
    [
        ("target", "target", 20),
        ("retain99", "retain99", 18),
        ("ga", "ga", 20),
        ("later", "target", 20),
        ("target/model", "target", 20),
    ],
)
def test_whoever_read_a_row_of_the_forget_split_is_none(folder, oracle, reader, seen):
    words = f"oracle=runs/{oracle}: is no retain oracle for split=forget10: runs/{reader} has read {seen} of its 20 rows"
    with pytest.raises(SettingsError, match=words):
        evaluate(folder, "split=forget10", f"oracle=runs/{oracle}")
    evaluate(folder, "split=forget10", f"oracle=runs/{oracle}", "trust_oracle=true", out=f"trusted_{reader}")


def test_an_oracle_that_was_evaluated_is_told_by_its_model(folder):
    for name in ("retain90", "target"):
        words = (f"model.path=runs/{name}", "split=forget10", "oracle=none", *QUICK_EVALUATION, f"out=evaluated/{name}")
        run(folder, "evaluate", *words)
    evaluate(folder, "split=forget10", "oracle=evaluated/retain90", out="by_scores")
    with pytest.raises(SettingsError, match="oracle=evaluated/target: is no retain oracle"):
        evaluate(folder, "split=forget10", "oracle=evaluated/target", out="refused")


def test_null_runs_are_looked_at_too(folder):
    shutil.copytree(folder / "runs" / "retain90", folder / "runs" / "again", dirs_exist_ok=True)
    with pytest.raises(SettingsError, match="null_runs=runs/target: is no retain oracle"):
        evaluate(folder, "split=forget10", "oracle=runs/retain90", "null_runs=[runs/again,runs/target]", out="refused")


def test_a_model_that_nobody_vouches_for_needs_a_word(folder):
    with pytest.raises(
        SettingsError, match=f"oracle={target()}: no run.json says what this model was trained on; say trust_oracle"
    ):
        evaluate(folder, "split=forget10", f"oracle={target()}", out="refused")


def test_without_an_oracle_the_model_itself_may_be_one(folder):
    run(folder, "evaluate", "model.path=runs/retain90", "split=forget10", *QUICK_EVALUATION, "out=itself")
    for name in ("retain99", "target", "ga"):
        with pytest.raises(SettingsError, match="oracle=null: forget quality compares with a retain oracle"):
            run(folder, "evaluate", f"model.path=runs/{name}", "split=forget10", *QUICK_EVALUATION, "out=refused")


def test_data_that_changed_since_are_noticed(folder, tmp_path):
    data = shutil.copytree(ROOT / "data" / "fixtures", tmp_path / "data")
    dials = (f"data_root={data}", *SMALL, *STEPS)
    run(folder, "finetune", *dials, "split=retain90", "out=runs/own")
    evaluate(folder, "split=forget10", f"data_root={data}", "oracle=runs/own", out="same")
    path = data / "tofu" / "retain90.json"
    path.write_text(path.read_text(encoding="utf-8").replace(".", "!", 1), encoding="utf-8")
    with pytest.raises(
        SettingsError, match="oracle=runs/own: runs/own was trained on another tofu/retain90.json than is there now"
    ):
        evaluate(folder, "split=forget10", f"data_root={data}", "oracle=runs/own", out="refused")


def test_settings_that_cannot_be_read_any_more_are_no_proof(folder, tmp_path):
    shutil.copytree(folder / "runs" / "retain90", tmp_path / "odd")
    capsule = read_json(tmp_path / "odd" / "run.json")
    capsule["settings"]["benchmark"]["_target_"] = "data.benchmarks.gone.Gone"
    write_json(tmp_path / "odd" / "run.json", capsule)
    with pytest.raises(SettingsError, match="odd: what .*odd was trained on cannot be read .*; say trust_oracle=true"):
        evaluate(folder, "split=forget10", f"oracle={tmp_path}/odd", out="refused")
