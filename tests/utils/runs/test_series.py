"""Runs in a row: a folder belongs to one set of settings, and only like is compared with like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from utils.files import read_json, write_json
from utils.runs.series import Evaluation, finished_run, named_models, open_series, snapshots


def write_evaluation(folder: Path, value: float | None, status: str = "finished", **known: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {"m": {"value": value, "n": 4, "definition": "made up"}})
    write_json(folder / "run.json", {"status": status, **known})
    return folder


def test_a_folder_belongs_to_one_set_of_settings(tmp_path):
    out = tmp_path / "out"
    assert open_series(out, "s.json", {"a": 1}, "*/") and not open_series(out, "s.json", {"a": 1}, "*/")
    assert open_series(out, "s.json", {"a": 2}, "*/")  # no number belongs to the old ones
    assert read_json(out / "s.json") == {"status": "running", "settings": {"a": 2}}
    (out / "eval").mkdir()
    with pytest.raises(ValueError, match=r"holds results with other settings \(a: 2 -> 3\); choose another"):
        open_series(out, "s.json", {"a": 3}, "*/")
    assert not open_series(out, "s.json", {"a": 2}, "*/")
    with pytest.raises(ValueError, match="exists and holds no other.json; choose another"):
        open_series(out, "other.json", {"a": 2}, "*/")


def test_what_is_not_finished_is_no_evaluation(tmp_path):
    folder = write_evaluation(tmp_path / "run" / "eval", 1.0, status="running")
    assert Evaluation.read(folder) is None and finished_run(folder) is None
    with pytest.raises(ValueError, match="run holds no finished evaluation; make one with evaluate.py"):
        Evaluation.of_oracle(tmp_path / "run")
    write_evaluation(folder, 1.0)
    assert Evaluation.of_oracle(tmp_path / "run") == Evaluation.of_oracle(folder)


def test_an_evaluation_is_made_once(tmp_path):
    calls = []

    def call(script: str, overrides: list[str]) -> None:
        calls.append((script, overrides))
        write_evaluation(tmp_path / "it's", 0.5)

    for _ in range(2):
        assert Evaluation.made(tmp_path / "it's", ["split=x"], call).value("m") == 0.5
    assert calls == [("evaluate", ["split=x", f"out='{tmp_path}/it\\'s'"])]
    with pytest.raises(ValueError, match="the evaluation left no finished result in .*none; see its output"):
        Evaluation.made(tmp_path / "none", [], lambda *_: None)


def test_only_like_is_compared_with_like(tmp_path):
    oracle = Evaluation.of_oracle(write_evaluation(tmp_path / "oracle", 0.4, requests="same"))
    for requests in ("same", None):
        found = Evaluation.of_oracle(write_evaluation(tmp_path / "a", 0.3, requests=requests))
        assert found.compared(oracle, "m") == 0.3
    other = Evaluation.of_oracle(write_evaluation(tmp_path / "b", 0.3, requests="other"))
    with pytest.raises(ValueError, match="they differ in questions or tokens; evaluate the retain oracle with the same"):
        other.compared(oracle, "m")
    with pytest.raises(ValueError, match="--metric n: .* has no such metric"):
        oracle.value("n")
    with pytest.raises(ValueError, match="--metric m: it is None in"):
        Evaluation.of_oracle(write_evaluation(tmp_path / "c", None)).value("m")


def test_models_are_named_with_their_weights(tmp_path):
    write_json(tmp_path / "run.json", {"weights": "abc"})
    facts = named_models(base=tmp_path, other="some/hub-name")
    assert facts == {"base": str(tmp_path), "weights of base": "abc", "other": "some/hub-name", "weights of other": None}


def test_snapshots_come_in_the_order_of_steps(tmp_path):
    for name in ("10", "9", "9.partial"):
        (tmp_path / "snapshots" / name).mkdir(parents=True)
    (tmp_path / "snapshots" / "2").touch()
    assert list(snapshots(tmp_path)) == [9, 10]
