"""An adapter finds the model under it, also after folders were moved, and only if that is still the same model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models import tiny_model, tokenizer
from tests.runs import compose_settings, run
from utils.files import read_json, write_json
from utils.weights.adapters import BaseError, base_of, keep_base
from utils.weights.arithmetic import negate_adapter
from utils.weights.folders import model_folder
from utils.weights.models import Precision, load_model, save_model

FLOAT32 = Precision(torch.float32, False)
STEPS = ("model=tiny", "method=ga", "split=forget05", "batch_size=10", "epochs=1", "warmup=0", "lr=0.01", "model.lora.r=4")


def logits(folder: Path) -> torch.Tensor:
    loaded = load_model(compose_settings("evaluate", "model=tiny", f"model.path={folder}").model, tokenizer(), FLOAT32, 0)
    return loaded.eval()(torch.arange(5, 15)[None]).logits.detach()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """base/ and adapter/, a run on it that was given its path as seen from the folder where it was started."""
    folder = tmp_path_factory.mktemp("made")
    save_model(tiny_model(hidden_size=32, num_hidden_layers=1), tokenizer(), folder / "base" / "model", torch.float32)
    run(folder, "unlearn", "adapter=lora", "model.path=base", *STEPS, "out=adapter")
    return folder


@pytest.mark.parametrize("together", [True, False])
def test_an_adapter_loads_wherever_it_was_moved(made, tmp_path, together):
    at_home = logits(made / "adapter")
    shutil.copytree(made, tmp_path / "copy")
    if together:
        (tmp_path / "copy").rename(tmp_path / "moved")
        path = tmp_path / "moved" / "adapter" / "model" / "adapter_config.json"
        write_json(path, {**read_json(path), "base_model_name_or_path": "/where/it/was"})  # the fixture's own folder still exists
        assert base_of(path.parent) == str((tmp_path / "moved" / "base" / "model").resolve())
    else:
        (tmp_path / "copy" / "adapter" / "model").rename(tmp_path / "moved")
        assert base_of(tmp_path / "moved") == str(made / "base" / "model")
    assert torch.equal(logits(tmp_path / "moved" / "adapter" if together else tmp_path / "moved"), at_home)


def test_other_tools_find_it_by_peft_s_own_file(made, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(made / "adapter" / "model").eval()
    assert torch.allclose(loaded(torch.arange(5, 15)[None]).logits, logits(made / "adapter"), atol=1e-5)


def test_one_that_trains_on_after_a_move_names_the_place_where_its_base_is_now(made, tmp_path):
    shutil.copytree(made, tmp_path / "moved")
    path = tmp_path / "moved" / "adapter" / "model" / "adapter_config.json"
    write_json(path, {**read_json(path), "base_model_name_or_path": "/where/it/was"})
    run(tmp_path, "unlearn", "adapter=continue", "model.path=moved/adapter", *STEPS, "out=later")
    assert json.loads((tmp_path / "later" / "model" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        (tmp_path / "moved" / "base" / "model").resolve()
    )


def test_its_opposite_is_on_the_same_base(made, tmp_path):
    negate_adapter(made / "adapter" / "model", tmp_path / "deep" / "down" / "negated")
    folder = tmp_path / "deep" / "down" / "negated"
    assert base_of(folder) == str(made / "base" / "model")
    assert (folder / read_json(folder / "base.json")["path"]).resolve() == (made / "base" / "model").resolve()


def test_a_name_of_the_hub_stays(tmp_path):
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "org/model"})
    keep_base(tmp_path, tmp_path, "org/model")
    assert base_of(tmp_path) == "org/model" and not (tmp_path / "base.json").exists()


def test_a_base_that_was_trained_again_is_refused(made, tmp_path):
    shutil.copytree(made, tmp_path / "moved")
    base, adapter = tmp_path / "moved" / "base", tmp_path / "moved" / "adapter" / "model"
    write_json(base / "run.json", {"weights": "first"})
    keep_base(adapter, adapter, str(base / "model"))
    assert base_of(adapter) == str(base / "model")
    write_json(base / "run.json", {"weights": "second"})
    with pytest.raises(BaseError, match=f"{adapter}: its base .* was trained again since, and holds other weights; train"):
        logits(adapter)
    assert model_folder(adapter) == str(adapter)
