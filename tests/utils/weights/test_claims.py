"""Weights are what their folder says: every way in which they are not is one sentence, with its own remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from tests.models import tiny_model, tokenizer
from tests.runs import compose_settings, run, target
from utils.files import read_json, write_json
from utils.runs.lineage import Origin
from utils.runs.settings import check_training
from utils.weights.claims import check_expected
from utils.weights.folders import ModelError
from utils.weights.models import load_model, resolve_precision, save_model

FILE = "model.safetensors"


def load(folder: Path) -> nn.Module:
    model = compose_settings("unlearn", f"model.path={folder}").model
    return load_model(model, tokenizer(), resolve_precision("float32", "float32", training=False), 0)


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(target(), tmp_path / "copy"))


def changed(folder: Path, change) -> Path:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return folder


QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors.pop(QUERY), f"other weights than its config.json describes: the folder lacks {QUERY}; copy"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), "the model has no place for extra; copy the folder again"),
        (lambda tensors: tensors.update({f"extra.{n}": torch.ones(2) for n in range(4)}), "extra.0, extra.1 and 2 more tensors"),
        (lambda tensors: tensors.update({QUERY: torch.ones(3, 3)}), "tensors of other shapes than its config.json"),
    ],
)  # fmt: skip
def test_tensors_that_are_missing_unknown_or_of_another_shape(folder, change, sentence):
    with pytest.raises(ModelError, match=f"^model.path={folder} .*{sentence}"):
        load(changed(folder, change))


def test_buffers_of_older_versions_do_no_harm(folder):
    before = load(folder).state_dict()
    old = changed(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    after = load(old).state_dict()
    assert before.keys() == after.keys() and all(tensor.equal(after[name]) for name, tensor in before.items())


def test_a_tied_head_that_is_not_stored_is_not_missing(tmp_path):
    save_model(tiny_model(tie_word_embeddings=True), tokenizer(), tmp_path / "tied", torch.float32)
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / FILE)
    load(tmp_path / "tied")


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_file_that_was_cut(folder, size):
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:size])
    with pytest.raises(ModelError, match=f"^model.path={folder} has a damaged weights file .*; copy the folder again$"):
        load(folder)


def test_a_pickle_comes_with_the_command_that_converts_it(folder):
    torch.save(load_file(folder / FILE), folder / "pytorch_model.bin")
    (folder / FILE).unlink()
    with pytest.raises(ModelError, match=r"holds pytorch_model.bin, a pickle .* convert it with: python -c \"") as refusal:
        load(folder)
    exec(compile(str(refusal.value).split('python -c "')[1].rstrip('"'), "command", "exec"), {})
    load(folder)


def test_a_pickled_adapter_is_refused_before_anything_is_loaded(tmp_path):
    """PEFT would read it without a word."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(target()), LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter", safe_serialization=True)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    wanted = "adapter holds adapter_model.bin, a pickle; convert it, which runs none of its code, with: python -c"
    with pytest.raises(ValueError, match=wanted) as refusal:
        check_training(compose_settings("unlearn", f"model.path={tmp_path / 'adapter'}"), "unlearn")
    with pytest.raises(ModelError, match=wanted):
        load(tmp_path / "adapter")
    exec(compile(str(refusal.value).split('python -c "')[1].rstrip('"'), "command", "exec"), {})
    load(tmp_path / "adapter")
    file.unlink()
    file.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match="holds an adapter without adapter_model.safetensors; copy the folder again"):
        load(tmp_path / "adapter")


def test_a_name_of_the_hub_that_cannot_be_had(monkeypatch):
    def ask(*_, **__):
        raise OSError("nobody/nothing is not a local folder and is not a valid model identifier")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", ask)
    with pytest.raises(
        ModelError, match="^model.path=nobody/nothing cannot be loaded .* check the name, your network and access"
    ):
        load(Path("nobody/nothing"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "opt", "vocab_size": 2048}, "has model_type=opt, but model=tiny is llama; .*expects.model_type=opt"),
        ({"model_type": "llama", "vocab_size": 9}, "model.path=x has vocab_size=9, but model=tiny is 2048"),
        ({"model_type": "llama", "vocab_size": 2048, "text_config": {"vocab_size": 9}}, "has vocab_size=9"),
    ],
)  # fmt: skip
def test_a_model_file_says_what_it_goes_with(config, words):
    expects = compose_settings("unlearn").model.expects
    with pytest.raises(ValueError, match=words):
        check_expected("tiny", expects, "x", config)
    check_expected("tiny", {"model_type": None, "vocab_size": None}, "x", config)
    check_expected("tiny", expects, "x", {})


def test_a_model_of_another_type_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    save_model(tiny_model("opt"), tokenizer(), tmp_path / "opt", torch.float32)
    with pytest.raises(ValueError, match="has model_type=opt, but model=tiny is llama; name the file of config/model"):
        run(tmp_path, "unlearn", f"model.path={tmp_path}/opt", "out=run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_weights_were_changed_afterwards_is_refused(tmp_path):
    few = ("split=forget01", "steps=1", "batch_size=2", "warmup=0", "checkpoint=none")
    run(tmp_path, "unlearn", "method=ga", f"model.path={target()}", *few, "out=first")
    changed(tmp_path / "first" / "model", lambda tensors: tensors[QUERY].add_(1e-3))
    with pytest.raises(ValueError, match="its weights are not those that the run in .*first wrote; bring them back"):
        run(tmp_path, "unlearn", "method=ga", "model.path=first", *few, "out=second")
    capsule = read_json(tmp_path / "first" / "run.json")
    write_json(tmp_path / "first" / "run.json", {key: value for key, value in capsule.items() if key != "weights"})
    Origin.of(tmp_path / "first").check_weights(str(tmp_path / "first" / "model"))  # nobody said what they were
