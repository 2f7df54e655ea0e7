"""Requests one after another: each from the last one's model, all asked again after each, and an interrupted sequence goes on."""

from __future__ import annotations

import gc
import json
from functools import partial
from pathlib import Path

import psutil
import pytest

from data.files.sources import FIXTURES
from scripts.sequence import Arrivals, main, run_sequence
from tests.runs import metrics, run, target
from utils.runs.cli import as_override

ROWS = (FIXTURES / "own" / "forget.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
BOTH = ("model=tiny", "override_model=true", f"benchmark.retain={FIXTURES / 'own' / 'retain.csv'}", "cache=null")
TRAIN = ("method=ga", "lr=1e-2", "steps=1", "batch_size=2", "checkpoint=none")
ASK = ("benchmark.rows=2", "benchmark.max_new_tokens=4", "benchmark.utility=none", "resamples=100")


def files(folder: Path, count: int) -> tuple[str, ...]:
    """So many files of two rows each."""
    for number in range(count):
        (folder / f"{number}.jsonl").write_text("".join(ROWS[2 * number : 2 * number + 2]), encoding="utf-8")
    return tuple(f"{number}.jsonl" for number in range(count))


def in_process(folder: Path, script: str, overrides: list[str]) -> None:
    run(folder, script, *overrides)


def arrivals(folder: Path, count: int, *more: str) -> Arrivals:
    train = (*BOTH, *TRAIN, *more)
    return Arrivals(files(folder, count), str(target()), folder / "out", train, ("cache=null", *ASK, BOTH[2]))


def about(file: str, model: str) -> list[str]:
    return ["benchmark=own", as_override("benchmark.forget", file), as_override("model.path", model)]


def test_commands_are_what_a_person_would_type():
    made = Arrivals(("a.jsonl", "b.csv"), "runs/target", Path("out"), ("adapter=lora", "lr=1e-3"), ("probe=paraphrase",))
    assert made.training(1) == [*about("a.jsonl", "runs/target"), "adapter=lora", "lr=1e-3"]
    assert made.training(2) == [*about("b.csv", "out/01"), "adapter=continue", "lr=1e-3"]
    assert made.asking(2, 1) == [*about("a.jsonl", "out/02"), "probe=paraphrase", "before=none"]
    assert "before=none" not in made.asking(2, 2)


def test_what_was_forgotten_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = arrivals(tmp_path, 2)
    rows = run_sequence(made, partial(in_process, tmp_path))
    assert [sorted(row) for row in rows] == [[1], [1, 2]]
    second = json.loads((tmp_path / "out/02/run.json").read_text())
    assert second["settings"]["model"]["path"] == str(tmp_path / "out/01")
    # What the second request found is what the first one left.
    assert metrics(tmp_path / "out/02/eval")["retain_prob_before"] == {
        **metrics(tmp_path / "out/01/eval")["retain_prob"],
        "definition": metrics(tmp_path / "out/02/eval")["retain_prob_before"]["definition"],
    }
    page = (tmp_path / "out/sequence.md").read_text()
    assert "after 0.jsonl" in page and "after 1.jsonl" in page and "before" in page
    called = []
    run_sequence(made, lambda script, words: called.append(script))
    assert not called  # all of it is finished


@pytest.mark.parametrize(
    "words, said",
    [
        (["a.jsonl", "a.jsonl", "--unlearn", "method=ga"], "a.jsonl: is named twice; name each file once"),
        (["a.jsonl", "--both", "benchmark.forget=x"], "benchmark.forget=x: benchmark.forget is set for every run by itself"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path, words, said):
    with pytest.raises(SystemExit, match=said):
        main([*words, "--target", "x", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ten_requests_keep_memory_flat(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    used: list[float] = []

    def call(script: str, overrides: list[str]) -> None:
        in_process(tmp_path, script, overrides)
        if script == "unlearn":
            gc.collect()
            used.append(psutil.Process().memory_info().rss / 2**20)

    rows = run_sequence(arrivals(tmp_path, 10, "adapter=lora"), call)
    assert len(used) == 10 and sorted(rows[-1]) == list(range(1, 11))
    assert used[-1] - used[2] < 60  # MiB, where the model of a request takes 1 and an evaluation's tables a few
    adapters = [(tmp_path / "out" / f"{number:02d}" / "model" / "adapter_model.safetensors").stat().st_size for number in (1, 10)]
    assert adapters[0] == adapters[1]
