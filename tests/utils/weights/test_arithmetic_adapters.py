"""Adapters with the opposite sign: by hand, against the merged model, and what cannot be negated."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models import moved, moved_copy, tiny_model, tokenizer, with_lora
from tests.utils.weights.checkpoint_files import SMALL, edit_json, saved, tensors
from utils.files import read_json
from utils.weights.arithmetic import TaskVector, combine, negate, negate_adapter
from utils.weights.safetensors_stream import WeightsError


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits


@pytest.fixture
def base(tmp_path) -> Path:
    return saved(tiny_model(**SMALL), tmp_path / "base")


@pytest.fixture
def bad(tmp_path) -> Path:
    return saved(moved_copy(tiny_model(**SMALL)), tmp_path / "bad")


def plain_adapter(path: Path, base: Path, targets: list[str], **options) -> Path:
    """A moved LoRA adapter on the model in folder `base`."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, **options)
        moved(get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)).save_pretrained(path)
    return path


def merged(base: Path, adapter: Path) -> nn.Module:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()


def test_adapter_by_hand(tmp_path):
    """W = I, A = [1, 2], B = [3, -1]', scale 0.5: W + s B A = [[2.5, 3], [-0.5, 0]], negated [[-0.5, -3], [0.5, 2]]."""

    def identity() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(2, 2, bias=False))
        nn.init.eye_(model[0].weight)
        return model

    model = get_peft_model(identity(), LoraConfig(r=1, lora_alpha=0.5, target_modules=["0"]))
    layer = model.base_model.model[0]
    layer.lora_A["default"].weight.data = torch.tensor([[1.0, 2.0]])
    layer.lora_B["default"].weight.data = torch.tensor([[3.0], [-1.0]])
    model.save_pretrained(tmp_path / "bad")
    negate_adapter(tmp_path / "bad", tmp_path / "out")
    bad, out = (PeftModel.from_pretrained(identity(), tmp_path / name).merge_and_unload()[0].weight for name in ("bad", "out"))
    assert bad.tolist() == [[2.5, 3.0], [-0.5, 0.0]]
    assert out.tolist() == [[-0.5, -3.0], [0.5, 2.0]]


@pytest.mark.parametrize("targets, options", [(["q_proj", "down_proj"], {}), (["embed_tokens", "v_proj"], {"use_rslora": True})])
def test_negating_an_adapter_is_negating_the_merged_model(tmp_path, base, targets, options):
    adapter = plain_adapter(tmp_path / "run" / "model", base, targets, **options)
    tokenizer().save_pretrained(adapter)
    negate(base, tmp_path / "run", tmp_path / "out", 1.5)
    saved(merged(base, adapter), tmp_path / "merged")
    negate(base, tmp_path / "merged", tmp_path / "full", 1.5)
    ours, theirs = merged(base, tmp_path / "out"), AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    assert torch.allclose(logits(ours), logits(theirs), rtol=0, atol=1e-4)
    assert not torch.allclose(logits(ours), logits(AutoModelForCausalLM.from_pretrained(base)), rtol=0, atol=1e-2)
    assert read_json(tmp_path / "out" / "adapter_config.json") == read_json(adapter / "adapter_config.json")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tokenizer().get_vocab()


def test_an_adapter_can_change_its_type(tmp_path, base):
    negate(base, plain_adapter(tmp_path / "bad", base, ["q_proj"]), tmp_path / "out", 2.0, torch.bfloat16)
    for name, tensor in tensors(tmp_path / "bad").items():
        assert torch.equal(tensors(tmp_path / "out")[name], (tensor * (-2.0 if "lora_B" in name else 1.0)).bfloat16())


def test_an_adapter_in_float64_is_scaled_in_it(tmp_path, base):
    """1 + 2^-40 is 1 in float32."""
    adapter = plain_adapter(tmp_path / "bad", base, ["q_proj"])
    path = adapter / "adapter_model.safetensors"
    wide = {name: torch.full_like(tensor, 1 + 2**-40, dtype=torch.float64) for name, tensor in load_file(path).items()}
    save_file(wide, path, {"format": "pt"})
    negate_adapter(adapter, tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert {name: tensor.unique().tolist() for name, tensor in found.items()} == {
        name: [(1 + 2**-40) * (-1 if "lora_B" in name else 1)] for name in wide
    }


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"use_dora": True}, "use_dora=true cannot be negated"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight is no factor of LoRA"),
        ({"lora_bias": True}, r"lora_B.bias is no factor of LoRA"),
        ({"init_lora_weights": "olora"}, "init_lora_weights=olora changes the weights under the adapter"),
    ],
)
def test_what_is_no_plain_lora_is_refused(tmp_path, base, options, reason):
    adapter = plain_adapter(tmp_path / "lora", base, ["q_proj"], **options)
    with pytest.raises(WeightsError, match=reason):
        negate(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_that_do_not_fit_are_refused(tmp_path, base, bad):
    adapter = plain_adapter(tmp_path / "lora", base, ["q_proj"])
    with pytest.raises(WeightsError, match=f"lora is an adapter of {base}, not of {bad}; give that as base, or correct"):
        negate(bad, adapter, tmp_path / "out")
    with pytest.raises(WeightsError, match="lora is an adapter, not a whole model; merge it"):
        combine(base, [TaskVector(1.0, bad, adapter)], tmp_path / "out")
    with pytest.raises(WeightsError, match="base is no adapter"):
        negate_adapter(base, tmp_path / "out")
    with_lora(AutoModelForCausalLM.from_pretrained(base)).save_pretrained(tmp_path / "fresh")
    with pytest.raises(WeightsError, match="fresh changes nothing: a factor of its updates is zero"):
        negate(base, tmp_path / "fresh", tmp_path / "out")
    edit_json(adapter / "adapter_config.json", peft_type="ADALORA")
    with pytest.raises(WeightsError, match="peft_type=ADALORA cannot be negated"):
        negate(base, adapter, tmp_path / "out")
