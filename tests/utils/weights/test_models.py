"""Models on disk: what is saved loads with plain Hugging Face and PEFT calls, wrong names are refused with the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from peft import AutoPeftModelForCausalLM, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.architectures import tiny
from tests.models import moved, tiny_model, tokenizer, with_lora
from tests.runs import (
    QUICK_EVALUATION,
    SMALL,
    assert_same_curve,
    compose_settings,
    losses,
    metrics,
    run,
    target,
    untouched,
    weights,
)
from utils.files import StorageError
from utils.weights.folders import ModelError, model_folder
from utils.weights.models import Precision, add_adapter, load_model, load_tokenizer, resolve_precision, save_model

FLOAT32 = Precision(torch.float32, False)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
STEPS = ("split=forget05", "batch_size=4", "epochs=1.2", "lr=0.01", "warmup=0")


def settings(*overrides: object) -> DictConfig:
    any_type = ("model.expects.model_type=null", "model.expects.vocab_size=null")
    return compose_settings("unlearn", *any_type, *overrides).model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name, dtype, training, cuda, expected",
    [
        ("auto", "bfloat16", True, False, (torch.float32, False)),
        ("auto", "bfloat16", True, True, (torch.float32, True)),
        ("auto", "bfloat16", False, True, (torch.bfloat16, False)),
        ("auto", "float32", True, True, (torch.float32, False)),
        ("float32", "bfloat16", True, True, (torch.float32, False)),
        ("bfloat16", "float32", True, False, (torch.float32, True)),
        ("bfloat16", "float32", False, False, (torch.bfloat16, False)),
        ("bfloat16_pure", "float32", True, False, (torch.bfloat16, False)),
    ],
)
def test_precision(monkeypatch, name, dtype, training, cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert resolve_precision(name, dtype, training) == Precision(*expected)


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(99)
    one, same, other = (load_model(settings(*SMALL), tokenizer(), FLOAT32, seed) for seed in (0, 0, 1))
    assert close(logits(one), logits(same)) and not close(logits(one), logits(other))
    assert one.config.vocab_size == len(tokenizer()) and one.config.eos_token_id == tokenizer().eos_token_id
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of finetune.py with all weights."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, "finetune", *SMALL, "split=forget05", "batch_size=16", "epochs=1", "out=run")
    return folder / "run"


def test_a_saved_model_loads_with_plain_hugging_face_calls(trained):
    model = AutoModelForCausalLM.from_pretrained(trained / "model")
    own = AutoTokenizer.from_pretrained(trained / "model")
    assert own.get_vocab() == tokenizer().get_vocab() and own.pad_token_id == tokenizer().pad_token_id
    assert model.dtype == torch.float32 and model.generation_config.eos_token_id == tokenizer().eos_token_id
    assert model.generation_config.pad_token_id == tokenizer().pad_token_id
    ours = load_model(settings(f"model.path={trained}"), tokenizer(), FLOAT32, 0)
    assert close(logits(model), logits(ours))
    assert model.generate(IDS, max_new_tokens=3, do_sample=False).shape == (1, 10)
    assert not list(trained.glob("*.partial"))


def test_a_model_is_saved_in_its_own_type(tmp_path):
    save_model(tiny_model(), tokenizer(), tmp_path / "model", torch.bfloat16)
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.bfloat16}


def test_a_folder_that_is_being_written_is_not_there_yet(tmp_path, monkeypatch):
    save_model(tiny_model(seed=1), tokenizer(), tmp_path / "model", torch.float32)
    before = weights(tmp_path)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(type(tokenizer()), "save_pretrained", fail)
    with pytest.raises(StorageError, match="disk full"):
        save_model(tiny_model(seed=2), tokenizer(), tmp_path / "model", torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path).items())


def test_a_folder_that_moved_loads_with_plain_calls(trained, adapted, tmp_path):
    """The card in it goes along, and disturbs nobody."""
    moved_model, moved_adapter = (Path(shutil.copytree(run / "model", tmp_path / run.parent.name)) for run in (trained, adapted))
    assert (moved_model / "README.md").is_file() and (moved_adapter / "README.md").is_file()
    model = AutoModelForCausalLM.from_pretrained(moved_model)
    assert close(logits(model), logits(AutoModelForCausalLM.from_pretrained(trained / "model")))
    assert AutoTokenizer.from_pretrained(moved_adapter).get_vocab() == tokenizer().get_vocab()
    ours = load_model(settings(f"model.path={adapted}"), tokenizer(), FLOAT32, 0)
    assert close(logits(AutoPeftModelForCausalLM.from_pretrained(moved_adapter)), logits(ours))
    base = shutil.copytree(target(), tmp_path / "base")  # as the card has it where the base is on no Hub
    under = AutoModelForCausalLM.from_pretrained(base)
    assert close(logits(PeftModel.from_pretrained(under, moved_adapter)), logits(ours))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> Path:
    """A run of unlearn.py with adapter=lora on the target."""
    folder = tmp_path_factory.mktemp("adapted")
    run(folder, "unlearn", "adapter=lora", f"model.path={target()}", *STEPS, "out=run")
    return folder / "run"


def test_a_saved_adapter_loads_with_plain_peft_calls(adapted):
    assert not (adapted / "model" / "model.safetensors").exists()
    tensors = weights(adapted, "model/adapter_model.safetensors")
    assert len(tensors) == 2 * 7 and all("lora_" in name for name in tensors)
    base = AutoModelForCausalLM.from_pretrained(target())
    plain = logits(base)
    model = PeftModel.from_pretrained(base, adapted / "model")
    changed = logits(model)
    assert not close(plain, changed)
    with model.disable_adapter():
        assert close(plain, logits(model))
    merged = load_model(settings(f"model.path={adapted}"), tokenizer(), FLOAT32, 0)
    assert close(changed, logits(merged)) and not any("lora" in name for name in merged.state_dict())
    assert load_tokenizer(settings(f"model.path={adapted}")).get_vocab() == tokenizer().get_vocab()


def test_the_model_under_the_adapter_is_untouched(adapted):
    made = json.loads((adapted / "model" / "adapter_config.json").read_text())
    assert made["base_model_name_or_path"] == str(target())
    assert (made["r"], made["lora_alpha"]) == (8, 16)
    plain = tiny_model(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    assert close(logits(AutoModelForCausalLM.from_pretrained(target())), logits(plain))


def test_an_adapter_can_be_evaluated(adapted):
    run(adapted.parent, "evaluate", f"model.path={adapted}", "oracle=none", *QUICK_EVALUATION, "out=eval")
    assert len(metrics(adapted.parent / "eval")) == 13


@pytest.mark.parametrize("adapter", [pytest.param("none", marks=pytest.mark.slow), "lora"])
def test_unlearning_goes_on_from_an_adapter(adapted, tmp_path, adapter):
    start = logits(load_model(settings(f"model.path={adapted}"), tokenizer(), FLOAT32, 0))
    run(tmp_path, "unlearn", f"adapter={adapter}", f"model.path={adapted}", *STEPS, "lr=1e-9", "out=still")
    still = logits(load_model(settings(f"model.path={tmp_path}/still"), tokenizer(), FLOAT32, 0))
    assert close(still, start)  # a step of 1e-9 changes nothing: what was saved holds the first adapter too
    run(tmp_path, "unlearn", f"adapter={adapter}", f"model.path={adapted}", *STEPS, "out=moved")
    assert not close(logits(load_model(settings(f"model.path={tmp_path}/moved"), tokenizer(), FLOAT32, 0)), start)


def test_an_adapter_goes_on_training_on_its_own_base(adapted, tmp_path):
    arguments = ("adapter=continue", f"model.path={adapted}", "method=npo_kl", *STEPS)
    for reference in ("cached", "adapter", "resident"):
        run(tmp_path, "unlearn", *arguments, f"reference={reference}", f"out={reference}")
    first, later = (weights(folder, "model/adapter_model.safetensors") for folder in (adapted, tmp_path / "cached"))
    assert first.keys() == later.keys() and all(not torch.equal(first[name], later[name]) for name in first)
    settings = [json.loads((f / "model" / "adapter_config.json").read_text()) for f in (adapted, tmp_path / "cached")]
    assert settings[0]["base_model_name_or_path"] == settings[1]["base_model_name_or_path"]
    # 2 / beta * log 2: the reference is the model with its adapter as it was, not the base under it
    assert losses(tmp_path / "cached")[0]["npo"] == pytest.approx(20 * 0.693147, abs=1e-4)
    for reference in ("adapter", "resident"):
        assert_same_curve(tmp_path / reference, tmp_path / "cached", 1e-4)


def test_only_an_adapter_can_go_on_training(tmp_path):
    with pytest.raises(ValueError, match="adapter=continue: model.path=.* holds no adapter; use adapter=lora to begin one"):
        run(tmp_path, "unlearn", "adapter=continue", f"model.path={target()}", *STEPS, "out=run")
    assert untouched(tmp_path / "run")


def test_the_adapter_switched_off_is_as_good_a_reference_as_a_cache(tmp_path):
    curves = {}
    for reference in ("adapter", "cached", "resident"):
        overrides = ("adapter=lora", "method=npo_kl", f"reference={reference}", f"model.path={target()}")
        run(tmp_path, "unlearn", *overrides, *STEPS, f"out={reference}")
        curves[reference] = [(r["loss"], r["retain_kl"]) for r in losses(tmp_path / reference)]
    assert len(curves["adapter"]) == 3 and curves["adapter"][2][1] > 1e-6
    for reference in ("cached", "resident"):
        for one, other in zip(curves["adapter"], curves[reference], strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_adapter_settings_win_over_those_of_the_model():
    cfg = compose_settings("unlearn", "adapter=lora", "adapter.lora.r=3", "adapter.lora.target_modules=[q_proj]")
    model = add_adapter(tiny_model(), cfg.adapter, cfg.model.lora, quantised=False)
    found = model.peft_config["default"]
    assert (found.r, found.lora_alpha, found.target_modules) == (3, cfg.model.lora.alpha, {"q_proj"})


def test_folders_stand_for_the_model_in_them(tmp_path, trained):
    assert model_folder(str(trained)) == model_folder(str(trained / "model")) == str(trained / "model")
    assert model_folder("owner/name") == "owner/name"
    (tmp_path / "empty").mkdir()
    for path, state in ((tmp_path / "empty", "holds no model"), ("runs/nowhere", "does not exist"), ("a/b/c", "does not")):
        with pytest.raises(ModelError, match=f"model.path={path} {state}.*; give a run folder, a checkpoint folder or a Hub"):
            model_folder(str(path))


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    bare = AutoTokenizer.from_pretrained(target())
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert load_tokenizer(settings(f"model.path={tmp_path}")).pad_token_id == tokenizer().eos_token_id


def test_a_hub_name_takes_the_tokenizer_that_is_named_beside_it(tmp_path):
    """Some released checkpoints have none of their own."""
    cfg = settings("model.path=muse-bench/MUSE-News_target", f"model.tokenizer={target()}")
    assert load_tokenizer(cfg).get_vocab() == tokenizer().get_vocab()


def test_a_checkpoint_without_tokenizer_takes_the_named_one(tmp_path):
    shutil.copytree(target(), tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert load_tokenizer(settings(f"model.path={tmp_path}/bare")).get_vocab() == tokenizer().get_vocab()
    with pytest.raises(ModelError, match="model=tiny: no tokenizer at .*bare"):
        load_tokenizer(settings(f"model.path={tmp_path}/bare", "model.tokenizer=null"))


@pytest.mark.parametrize("tied", [True, False])
def test_saving_in_another_type_leaves_the_model_as_it_is(tmp_path, tied):
    model = tiny_model(tie_word_embeddings=tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, tokenizer(), tmp_path / "saved", torch.bfloat16)
    assert all(tensor.dtype == torch.float32 and tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    loaded = load_model(settings(f"model.path={tmp_path}/saved"), tokenizer(), FLOAT32, 0)
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(before[name].bfloat16().float()), name


def test_weights_that_cannot_be_read_are_named(tmp_path):
    shutil.copytree(target(), tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"model.path={tmp_path}/cut holds no weights .*; copy the folder again"):
        load_model(settings(f"model.path={tmp_path}/cut"), tokenizer(), FLOAT32, 0)
    with pytest.raises(ModelError, match="model=tiny: model.path is null and there is no architecture"):
        load_model(settings("model.architecture=null"), tokenizer(), FLOAT32, 0)


@pytest.mark.parametrize("base", ["/nowhere/at/all", None])
def test_an_adapter_whose_model_is_gone_says_so(tmp_path, base):
    moved(with_lora(tiny_model())).save_pretrained(tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
    with pytest.raises(ModelError, match=f"the base model {base} that its adapter belongs to does not exist; bring it back"):
        load_model(settings(f"model.path={tmp_path}/lora"), tokenizer(), FLOAT32, 0)


def test_attention_is_sdpa_where_the_architecture_has_it_and_else_eager(tmp_path):
    for family, kernel in (("llama", "sdpa"), ("gemma2", "eager"), ("gptj", "eager")):
        save_model(tiny(family), tokenizer(), tmp_path / family, torch.float32)
        assert (
            load_model(settings(f"model.path={tmp_path / family}"), tokenizer(), FLOAT32, 0).config._attn_implementation == kernel
        )


def test_an_attention_kernel_that_cannot_be_had_is_an_error_about_it(tmp_path):
    save_model(tiny("gptj"), tokenizer(), tmp_path / "gptj", torch.float32)
    cfg = settings(f"model.path={tmp_path / 'gptj'}", "model.attn=sdpa")
    with pytest.raises(ModelError, match="model.attn=sdpa: this model cannot be loaded with it .*; use model.attn=auto"):
        load_model(cfg, tokenizer(), FLOAT32, 0)
    cfg = settings("model=tiny", "model.attn=flash_attention_2")
    with pytest.raises(
        ModelError, match="model.attn=flash_attention_2: this model cannot be loaded with it .*; use model.attn=auto"
    ):
        load_model(cfg, tokenizer(), FLOAT32, 0)


def test_layers_that_choose_experts_get_no_adapter():
    """Some return two tensors, to which an adapter cannot add; experts and attention get one."""
    adapted = with_lora_of_settings(tiny("phimoe"))
    names = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert names and not [name for name in names if "router" in name]


def with_lora_of_settings(model: nn.Module) -> PeftModel:
    cfg = compose_settings("unlearn", "adapter=lora", "model=tiny")
    return add_adapter(model, cfg.adapter, cfg.model.lora, quantised=False)
