"""What a run makes of a model, from the run itself and all before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data.benchmarks.completion import Completion
from data.benchmarks.knowundo import KnowUnDo
from data.benchmarks.muse import Muse
from data.benchmarks.safety import Safety
from data.benchmarks.tofu import Tofu
from utils.files import write_json
from utils.report.columns import read_display
from utils.runs.lineage import role_of_evaluated, role_of_training


def write_run(folder: Path, script: str, split: str, path: Path | None = None, benchmark: str = "tofu", **facts: str) -> Path:
    folder.mkdir()
    settings = {"split": split, "benchmark": {"name": benchmark}, "model": {"path": None if path is None else str(path)}}
    write_json(folder / "run.json", {"script": script, "status": "finished", "settings": settings, **facts})
    return folder


def role(script: str, split: str, path: Path | None = None) -> str:
    return role_of_training(script, None if path is None else str(path), "tofu", split, Tofu.harmless)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("full", "target"), ("retain90", "oracle"), ("retain90+forget10", "target"), ("retain95+world_facts", "oracle")],
)
def test_a_first_training_makes_a_target_or_an_oracle(split, expected):
    assert role("finetune", split) == expected


def test_what_was_learned_before_counts(tmp_path):
    full = write_run(tmp_path / "full", "finetune", "full")
    kept = write_run(tmp_path / "kept", "finetune", "retain90")
    other = write_run(tmp_path / "other", "finetune", "full", benchmark="knowundo")
    assert role("finetune", "retain90", full) == "target"  # it did see what is to be forgotten
    assert role("finetune", "retain90", kept) == role("finetune", "retain90", other) == "oracle"
    assert role("unlearn", "forget10", full) == "method"


def test_training_after_unlearning_is_relearning_however_long_ago(tmp_path):
    full = write_run(tmp_path / "full", "finetune", "full")
    npo = write_run(tmp_path / "npo", "unlearn", "forget10", full)
    again = write_run(tmp_path / "again", "finetune", "retain90", npo / "model")
    assert role("finetune", "forget10", npo) == role("finetune", "retain90", again) == "relearned"
    assert role("unlearn", "forget10", again) == "method"


def test_what_is_evaluated_is_what_its_run_says(tmp_path):
    def evaluated(path: Path | None, log: str | None = None, louder: str | None = None) -> str | None:
        model = {"path": None if path is None else str(path)}
        return role_of_evaluated(OmegaConf.create({"from_logs": log, "reinforced": {"path": louder}, "model": model}))

    said = write_run(tmp_path / "said", "finetune", "full", role="relearned")
    old = write_run(tmp_path / "old", "finetune", "full")
    assert evaluated(said) == evaluated(said / "model") == "relearned" and evaluated(old) is None
    assert evaluated(tmp_path) == "untouched" and evaluated(None, log="a.json") == "log"
    assert evaluated(said, louder="b") == "method"


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [("tofu", Tofu), ("knowundo", KnowUnDo), ("muse", Muse), ("completion", Completion), ("safety", Safety)],
)
def test_older_runs_are_read_by_the_same_splits(name, benchmark):
    assert read_display(name).oracle == benchmark.harmless
