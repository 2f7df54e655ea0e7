"""Starting anew deletes a folder: never one with what the run is about to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import compose_settings, run, target
from utils.files import write_json
from utils.runs.run import Run, RunError


def opened(out: Path, *overrides: object, script: str = "unlearn") -> Run:
    return Run.open(compose_settings(script, f"out={out}", *overrides), script, {})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def made(tmp_path) -> Path:
    """A finished run with a model, and a folder beside it."""
    folder = tmp_path / "runs" / "x"
    opened(folder, script="evaluate").finish()
    for part in ("model", "trained", "snapshots/2"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
    return folder


CASES = [
    ("evaluate", "runs/x", "model.path=runs/x", "out=runs/x is model.path=runs/x, which this run reads"),
    ("evaluate", "runs/x", "model.path=runs/x/model", "out=runs/x holds model.path=runs/x/model"),
    ("evaluate", "runs/x", "model.path=runs/link", "out=runs/x is model.path=runs/link"),
    ("evaluate", "runs/link", "model.path=runs/x", "out=runs/link is model.path=runs/x"),
    ("evaluate", "runs/x", "model.path=runs/../runs/x", "out=runs/x is model.path="),
    ("evaluate", "runs/x", "oracle=runs/x/oracle_eval", "out=runs/x holds oracle=runs/x/oracle_eval"),
    ("evaluate", "runs/x", "null_runs=[runs/other,runs/x/oracle_eval]", "holds null_runs=runs/x/oracle_eval"),
    ("evaluate", "runs/x", "reinforced.path=runs/x", "out=runs/x is reinforced.path=runs/x"),
    ("evaluate", "runs/x", "model.path=runs/adapter", "out=runs/x is the base model of model.path=runs/x"),
    ("evaluate", "runs/x", "benchmark=safety benchmark.base_run=runs/x/oracle_eval", "holds benchmark.base_run="),
    ("evaluate", "runs/x", "benchmark=safety benchmark.perplexity_model=runs/x/model", "holds benchmark.perplexity_model="),
    ("evaluate", "runs/x", "from_logs=runs/x/run.json", "holds from_logs=runs/x/run.json"),
    ("evaluate", "runs/x", "data_root=runs/x/oracle_eval", "holds data_root=runs/x/oracle_eval"),
    ("unlearn", "runs/x", "model.path=runs/x/snapshots/2", "out=runs/x holds model.path=runs/x/snapshots/2"),
    ("unlearn", "runs/x", "method=memflex method.region.file=runs/x/run.json", "holds method.region.file="),
    ("unlearn", "runs/x", "refusals=runs/x/run.json", "holds refusals=runs/x/run.json"),
    ("evaluate", "runs/x/model/eval", "model.path=runs/x", "out=runs/x/model/eval: model/ of the run "),
    ("evaluate", "runs/x/model", "model.path=runs/x", "out=runs/x/model: model/ of the run "),
    ("evaluate", "runs/x/trained/eval", "model.path=runs/x", "out=runs/x/trained/eval: trained/ of the run "),
    ("evaluate", "runs/x/snapshots/2/eval", "model.path=runs/x/snapshots/2", "snapshots/ of the run "),
    ("evaluate", "runs/adapter/model/eval", "model.path=runs/adapter", "lies within the model of model.path=runs/adapter"),
]


@pytest.mark.parametrize("overwrite", ["true", pytest.param("false", marks=pytest.mark.slow)])
@pytest.mark.parametrize("script, out, overrides, said", CASES)
def test_what_is_read_is_never_written_over(made, monkeypatch, script, out, overrides, said, overwrite):
    monkeypatch.chdir(made.parents[1])
    (made.parent / "link").symlink_to(made)
    (made / "oracle_eval").mkdir()
    (made.parent / "other").mkdir()
    (made.parent / "adapter" / "model").mkdir(parents=True)
    write_json(made.parent / "adapter" / "model" / "adapter_config.json", {"base_model_name_or_path": "runs/x"})
    before = contents(made.parent)
    with pytest.raises(RunError) as refusal:
        opened(Path(out), *overrides.split(), f"overwrite={overwrite}", script=script)
    assert said in str(refusal.value) and "choose another out=" in str(refusal.value)
    assert contents(made.parent) == before and not (made.parent / "adapter" / "model" / "eval").exists()


def test_a_half_written_run_with_nothing_to_lose_is_not_cleared_with_an_input_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened(Path("run"))  # got nowhere: its folder would be deleted without asking
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "config.json").write_text("{}")
    with pytest.raises(RunError, match="out=run holds model.path=run/checkpoints"):
        opened(Path("run"), "model.path=run/checkpoints")
    assert (tmp_path / "run" / "checkpoints" / "config.json").exists()


def test_an_evaluation_in_the_folder_of_its_model_is_the_usual_case(made, monkeypatch):
    monkeypatch.chdir(made.parents[1])
    for overwrite in ("false", "true"):
        assert not opened(Path("runs/x/eval"), "model.path=runs/x", f"overwrite={overwrite}", script="evaluate").skip
    assert (made / "model" / "config.json").exists()
    # Words that happen to be names of folders are no paths.
    monkeypatch.chdir(made.parent)
    assert not opened(Path("full"), "split=full", script="finetune").skip
    (made.parent / "full" / "log.jsonl").write_text("")
    assert not opened(Path("full"), "split=full", "overwrite=true", script="finetune").skip


def test_the_refusal_comes_before_a_model_is_loaded(tmp_path):
    with pytest.raises(RunError, match="is model.path="):
        run(tmp_path, "unlearn", f"model.path={target()}", f"out={target()}", "overwrite=true", "split=forget05")
    assert (target() / "model.safetensors").is_file()
