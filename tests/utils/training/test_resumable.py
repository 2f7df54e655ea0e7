"""Checkpoints that were damaged after they were written are named, and the one before is gone on from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.models import tiny_model, tokenizer
from tests.runs import assert_same_curve, assert_same_weights, run, weights
from utils.runs.run import Run
from utils.training.resumable import MANIFEST, keep_last, last_checkpoint, seal, whole_checkpoint
from utils.training.trainer import UnlearnTrainer
from utils.weights.models import save_model

DAMAGES = {
    "optimizer.pt is missing": lambda path: (path / "optimizer.pt").unlink(),
    "optimizer.pt is not what was written": lambda path: (path / "optimizer.pt").write_bytes(b"optim"),
    "part/rng_0.pth is not what was written": lambda path: (path / "part" / "rng_0.pth").write_bytes(b"sxate"),
    "model.safetensors is not what was written": lambda path: (path / "model.safetensors").write_bytes(b""),
    f"its {MANIFEST} is not readable": lambda path: (path / MANIFEST).write_text('{"model.safe'),
}


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "part").mkdir(parents=True)
    for name, content in (("model.safetensors", "weights"), ("optimizer.pt", "optimizer"), ("part/rng_0.pth", "state")):
        (path / name).write_text(f"{content} {step}"[: 5 if name.endswith("pth") else None])
    if sealed:
        seal(path)
    return path


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, said):
    for step in (20, 100):  # not in the order of letters
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 120, sealed=False)
    assert whole_checkpoint(tmp_path).name == "checkpoint-100" and not caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20"]
    DAMAGES[said](tmp_path / "checkpoint-100")
    assert last_checkpoint(tmp_path).name == "checkpoint-100"  # does not look into files
    assert whole_checkpoint(tmp_path).name == "checkpoint-20"
    assert f"{tmp_path}/checkpoint-100 is damaged ({said}); going on from checkpoint-20" in caplog.text
    DAMAGES[said](tmp_path / "checkpoint-20")
    assert whole_checkpoint(tmp_path) is None and not list(tmp_path.iterdir())
    assert f"{tmp_path}/checkpoint-20 is damaged ({said}); going on from the beginning" in caplog.text


def test_the_newest_are_kept(tmp_path):
    for step in (2, 9, 10, 40):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 41, sealed=False)
    keep_last(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-40"]
    keep_last(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-40"]
    assert whole_checkpoint(tmp_path / "nowhere") is None


class PowerCut(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "kept, reached", [("checkpoints_kept=2", 2), pytest.param("checkpoints_kept=1", 0, marks=pytest.mark.slow)]
)
def test_a_run_with_a_damaged_checkpoint_ends_as_if_nothing_had_been(tmp_path, monkeypatch, caplog, capfd, kept, reached):
    """A tied model: its checkpoints hold the shared tensor once, which is no reason to warn."""
    tied = tiny_model(hidden_size=32, num_hidden_layers=1, intermediate_size=64, tie_word_embeddings=True)
    save_model(tied, tokenizer(), tmp_path / "tied", tied.dtype)
    steps = ("split=forget05", "batch_size=4", "epochs=2.4", "lr=1e-3", "warmup=1", "method=npo_rt", "checkpoint=2")

    def unlearn(out: str, *more: str) -> Path:
        run(tmp_path, "unlearn", f"model.path={tmp_path}/tied", *steps, f"out={out}", *more)
        return tmp_path / out

    def record(self, entry):
        if entry["step"] == 5:
            raise PowerCut
        original(self, entry)

    original = Run.record
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Run, "record", record)
        unlearn("run", kept)
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert found == ["checkpoint-2", "checkpoint-4"][-int(kept[-1]) :]
    (tmp_path / "run" / "checkpoints" / "checkpoint-4" / "optimizer.pt").unlink()
    caplog.set_level("INFO")
    unlearn("run", kept)
    assert "checkpoint-4 is damaged (optimizer.pt is missing); going on from " in caplog.text
    assert ("resuming at step 2 of 6" in caplog.text) == (reached == 2)
    assert "missing keys" not in caplog.text + capfd.readouterr().err
    assert_same_curve(tmp_path / "run", unlearn("whole"), 0.0)
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"), 0.0)


def test_a_checkpoint_of_another_model_is_refused():
    """Of two tied weights one is enough."""
    tied = tiny_model(hidden_size=32, num_hidden_layers=1, intermediate_size=64, tie_word_embeddings=True)
    trainer = SimpleNamespace(model=tied, args=SimpleNamespace(output_dir="run/checkpoints"))

    def load(missing: list[str], unexpected: list[str]) -> None:
        found = SimpleNamespace(missing_keys=missing, unexpected_keys=unexpected)
        UnlearnTrainer._issue_warnings_after_load(trainer, found)

    load(["lm_head.weight"], [])
    for missing, unexpected, sentence in (
        (["model.norm.weight"], [], "run/checkpoints: the checkpoint lacks model.norm.weight; start again"),
        (["lm_head.weight", "model.embed_tokens.weight"], [], "the checkpoint lacks lm_head.weight"),
        ([], ["other"], "the checkpoint holds other, which the model lacks"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load(missing, unexpected)
