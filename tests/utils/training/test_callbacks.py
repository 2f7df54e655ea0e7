"""Snapshots, early stops: what happens beside the steps."""

from __future__ import annotations

import pytest
import torch

from tests.runs import assert_same_weights, losses, run, target, weights
from utils.files import read_json

# 10 items in batches of 4: 5 steps.
STEPS = ("method=ga", "split=forget05", "batch_size=4", "epochs=2", "warmup=1", "optimizer=sgd", "lr=0.5")


def test_snapshots_are_models_of_their_step(tmp_path):
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "snapshots=2", "out=run")
    kept = tmp_path / "run" / "snapshots"
    assert sorted(path.name for path in kept.iterdir()) == ["2", "4", "5"]
    assert_same_weights(weights(kept, "5/model.safetensors"), weights(tmp_path / "run"), 0.0)
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "scheduler=constant_with_warmup", "snapshots=none", "out=whole")
    assert not (tmp_path / "whole" / "snapshots").exists()
    names = {path.name for path in (kept / "2").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names


@pytest.mark.slow
def test_snapshots_of_an_adapter_on_an_adapter_leave_it_training(tmp_path):
    """They are merged, since the base of the second adapter exists nowhere on disk; what trains is not."""
    steps = ("method=ga", "split=forget01", "batch_size=2", "steps=2", "warmup=0", "lr=1e-2", "adapter=lora")
    run(tmp_path, "unlearn", f"model.path={target()}", *steps, "out=first")
    run(tmp_path, "unlearn", f"model.path={tmp_path}/first", *steps, "out=plain")
    run(tmp_path, "unlearn", f"model.path={tmp_path}/first", *steps, "snapshots=1", "out=kept")
    assert_same_weights(weights(tmp_path / "plain"), weights(tmp_path / "kept"), 0.0)
    kept = [weights(tmp_path / "kept" / "snapshots", f"{step}/model.safetensors") for step in (1, 2)]
    assert_same_weights(kept[1], weights(tmp_path / "kept"), 0.0)
    assert any(not kept[0][name].equal(kept[1][name]) for name in kept[0])


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_snapshots_in_another_type_leave_what_trains_as_it_is(tmp_path, optimizer):
    """Under autocast float32 weights train, and bfloat16 ones are saved."""
    steps = ("method=ga", "split=forget01", "batch_size=2", "steps=3", "warmup=0", "lr=1e-2", f"optimizer={optimizer}")
    types = ("precision=bfloat16", "model.dtype=bfloat16")
    for name, every in (("plain", "none"), ("kept", "1")):
        run(tmp_path, "unlearn", f"model.path={target()}", *steps, *types, f"snapshots={every}", f"out={name}")
    assert_same_weights(weights(tmp_path / "plain"), weights(tmp_path / "kept"), 0.0)
    for folder in (tmp_path / "kept" / "model", tmp_path / "kept" / "snapshots" / "1"):
        assert read_json(folder / "config.json")["dtype"] == "bfloat16"
        assert {tensor.dtype for tensor in weights(folder, "model.safetensors").values()} == {torch.bfloat16}


def test_steps_win_over_epochs(tmp_path):
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "steps=3", "out=run")
    assert [record["step"] for record in losses(tmp_path / "run")] == [1, 2, 3]


def test_training_stops_once_a_part_has_risen_far_enough(tmp_path):
    stop = "+method.stop={part: forget_nll, above: %s}"
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "out=whole")
    parts = [record["forget_nll"] for record in losses(tmp_path / "whole")]
    assert max(parts[:2]) < parts[2] - 1e-4
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, stop % (parts[2] - 1e-4), "out=stopped")
    assert [record["step"] for record in losses(tmp_path / "stopped")] == [1, 2, 3]
    assert (tmp_path / "stopped" / "model" / "model.safetensors").is_file()
    with pytest.raises(ValueError, match="method.stop.part=bad: write one of loss, forget_nll"):
        run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "+method.stop={part: bad, above: 1}", "out=wrong")
    assert not (tmp_path / "wrong").exists()
