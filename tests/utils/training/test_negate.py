"""Learn, then negate: the result is 2 theta_0 - theta_bad, nothing of theta_bad stays, and an interruption changes nothing."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pytest import approx
from torch import nn
from transformers import AutoModelForCausalLM

from tests.models import moved, tiny_model, tokenizer, with_lora
from tests.runs import losses, run, target, weights
from tests.utils.weights.checkpoint_files import SMALL, folder, tensors
from utils.training import negate
from utils.training.negate import Negate
from utils.weights.arithmetic import WeightsError
from utils.weights.folders import ModelError
from utils.weights.models import save_model

STEPS = ("method=sku", "split=forget01", "batch_size=2", "steps=2", "warmup=0", "lr=1e-2")
LORA = ("adapter=lora", "adapter.lora.r=2")
KEEP = "method.finish.keep_trained=true"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A finished run that kept what it trained."""
    place = tmp_path_factory.mktemp("sku")
    run(place, "unlearn", f"model.path={target()}", *STEPS, KEEP, "out=kept")
    return place / "kept"


def files(run_folder: Path) -> set[str]:
    return {path.name for path in run_folder.iterdir()}


def test_the_result_is_the_original_less_what_was_learnt(kept):
    start, bad, result = (tensors(path) for path in (target(), kept / "trained", kept / "model"))
    assert start.keys() == bad.keys() == result.keys()
    for name, values in start.items():
        assert values.dtype == result[name].dtype == torch.float32
        assert torch.equal(result[name], values - (bad[name] - values)), name
        assert torch.allclose(result[name], 2 * values - bad[name], rtol=0, atol=1e-6)
        assert not torch.equal(bad[name], values), f"{name} did not train"
    assert "model.safetensors" in files(kept / "model") and "tokenizer.json" in files(kept / "model")


def test_training_learns_what_is_then_taken_away(kept):
    """Bad answers got likelier by the second step, and the first was where the model leaves the reference: KL 0."""
    first, second = losses(kept)
    assert first["normal_kl"] == approx(0.0, abs=1e-6) and second["normal_kl"] > 1e-3
    assert second["forget_nll"] < first["forget_nll"] - 0.01
    assert first["loss"] == approx(2.5 * first["forget_nll"] + 2.5 * first["mismatched_nll"] - first["normal_kl"], rel=1e-5)


def test_nothing_of_the_first_stage_stays_unless_asked_for(tmp_path, kept, caplog):
    with caplog.at_level(logging.WARNING):
        run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "checkpoint=1", "out=run")
    assert "before the negation" not in caplog.text
    assert files(tmp_path / "run") == {"config.yaml", "log.jsonl", "model", "run.json"}
    assert files(kept) == files(tmp_path / "run") | {"trained"}
    result, wanted = weights(tmp_path / "run"), weights(kept)
    assert all(torch.equal(result[name], wanted[name]) for name in wanted)


def test_kept_weights_come_with_a_warning(tmp_path, caplog):
    start, bad = folder(tmp_path / "base", w=torch.zeros(2)), folder(tmp_path / "trained", w=torch.ones(2))
    Negate(keep_trained=True)(start, bad, tmp_path / "model")
    assert f"{bad} is the model before the negation" in caplog.text and "more harmful on purpose" in caplog.text
    assert bad.is_dir() and tensors(tmp_path / "model")["w"].tolist() == [-1.0, -1.0]


def test_by_hand(tmp_path):
    """theta_0 = [1, 2, -0.5], trained [1.5, 1, -0.5]; less all of it [0.5, 3, -0.5], less half of it [0.75, 2.5, -0.5]."""
    start = folder(tmp_path / "base", w=torch.tensor([1.0, 2.0, -0.5]))
    for number, (options, wanted) in enumerate(
        [({}, [0.5, 3.0, -0.5]), ({"coefficient": 0.5}, [0.75, 2.5, -0.5]), ({"dtype": "bfloat16"}, [0.5, 3.0, -0.5])]
    ):
        bad = folder(tmp_path / "trained", w=torch.tensor([1.5, 1.0, -0.5]))
        Negate(**options)(start, bad, tmp_path / f"out{number}")
        assert tensors(tmp_path / f"out{number}")["w"].tolist() == wanted and not bad.exists()
    assert tensors(tmp_path / "out2")["w"].dtype == torch.bfloat16


def test_one_step_of_adamw_and_its_opposite(tmp_path):
    """theta 1, gradient 0.3, rate 2e-4, weight decay 0.01."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    start = folder(tmp_path / "base", w=weight.detach().clone())
    weight.grad = torch.full_like(weight, 0.3)
    torch.optim.AdamW([weight], lr=2e-4).step()
    Negate()(start, folder(tmp_path / "trained", w=weight.detach()), tmp_path / "out")
    assert weight.item() == approx(0.9997980000066667, abs=1e-15)
    assert tensors(tmp_path / "out")["w"].item() == approx(1.0002019999933331, abs=1e-15)


def test_an_adapter_becomes_its_opposite(tmp_path):
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *LORA, KEEP, "reference=adapter", "out=kept")
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *LORA, "reference=adapter", "out=run")
    assert not (tmp_path / "run" / "trained").exists()
    file = "adapter_model.safetensors"
    bad, kept, result = (weights(tmp_path / path, file) for path in ("kept/trained", "kept/model", "run/model"))
    assert bad.keys() == kept.keys() == result.keys() and any("lora_B" in name for name in bad)
    for name, values in bad.items():
        sign = -1.0 if "lora_B" in name else 1.0
        assert torch.equal(result[name], sign * values) and torch.equal(kept[name], result[name]), name
    base, learnt, found = merged(None), merged(tmp_path / "kept" / "trained"), merged(tmp_path / "run" / "model")
    for name, values in base.items():
        torch.testing.assert_close(found[name], 2 * values - learnt[name], rtol=0, atol=1e-6)
    assert any(not torch.equal(found[name], values) for name, values in base.items())


def merged(adapter: Path | None) -> dict[str, torch.Tensor]:
    """Weights of the target, with an adapter merged into it."""
    model = AutoModelForCausalLM.from_pretrained(target())
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter).merge_and_unload()).state_dict()


def test_tied_weights_are_negated_once(tmp_path):
    """Embedding and head are one tensor under two names: moved twice, it would end at 3 theta_0 - 2 theta_bad."""
    save_model(tiny_model(**SMALL, tie_word_embeddings=True), tokenizer(), tmp_path / "tied", torch.float32)
    run(tmp_path, "unlearn", "model.path=tied", *STEPS, KEEP, "out=run")
    start, bad = tensors(tmp_path / "tied"), tensors(tmp_path / "run" / "trained")
    assert "lm_head.weight" not in start
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert result.get_output_embeddings().weight is result.get_input_embeddings().weight
    for name, parameter in result.named_parameters():
        assert torch.equal(parameter, start[name] - (bad[name] - start[name])), name


def crash(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("checkpoint", [pytest.param("none", marks=pytest.mark.slow), "1"])
@pytest.mark.parametrize("at", [pytest.param("negate", marks=pytest.mark.slow), "rmtree"])
def test_a_run_that_was_interrupted_at_its_end_goes_on(tmp_path, kept, monkeypatch, at, checkpoint):
    """Before the result is written, or after it and before what was trained is deleted; with a checkpoint or without."""
    command = (f"model.path={target()}", *STEPS, f"checkpoint={checkpoint}", "out=run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(negate, "negate", crash) if at == "negate" else patch.setattr(negate, "shutil", Broken)
        run(tmp_path, "unlearn", *command)
    assert "trained" in files(tmp_path / "run") and ("model" in files(tmp_path / "run")) == (at == "rmtree")
    run(tmp_path, "unlearn", *command)
    assert files(tmp_path / "run") == {"config.yaml", "log.jsonl", "model", "run.json"}
    result, wanted = weights(tmp_path / "run"), weights(kept)
    assert all(torch.equal(result[name], wanted[name]) for name in wanted)


class Broken:
    rmtree = staticmethod(crash)


def test_training_that_changed_nothing_is_no_unlearning(tmp_path):
    start = folder(tmp_path / "base", w=torch.ones(2))
    same = shutil.copytree(start, tmp_path / "trained")
    with pytest.raises(WeightsError, match="hold the same weights, so their task vector is zero"):
        Negate()(start, same, tmp_path / "out")
    assert same.is_dir() and not (tmp_path / "out").exists()


def test_a_task_vector_forgets_what_was_learnt(tmp_path):
    """MUSE's baseline: alpha 5, and the model knows less of the forget set than before it was finetuned on it."""
    options = ("method=task_vector", "split=forget01", "batch_size=2", "warmup=0", "lr=2e-3")
    run(tmp_path, "unlearn", f"model.path={target()}", *options, "steps=3", KEEP, "out=run")
    start, bad, result = (tensors(path) for path in (target(), tmp_path / "run" / "trained", tmp_path / "run" / "model"))
    for name, values in start.items():
        assert torch.equal(result[name], values + (bad[name] - values) * -5.0), name
    learnt = [record["forget_nll"] for record in losses(tmp_path / "run")]
    run(tmp_path, "unlearn", "model.path=run", *options, "steps=1", "out=after")
    assert learnt[-1] < learnt[0] < losses(tmp_path / "after")[0]["forget_nll"] - 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("snapshots=1",), "snapshots=1: would keep weights from before the negation.*keep_trained=true"),
        (("method.finish.coefficient=0",), "method.finish: coefficient=0: write a number above 0"),
        (("method.finish.keep_trained=yes_please",), "method.finish: keep_trained=yes_please: write true or false"),
        (("method.finish.dtype=float16",), "method.finish: dtype=float16: write one of null, float32, bfloat16"),
    ],
)
def test_what_cannot_be_negated_is_refused_before_training(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *overrides, "out=run")
    assert not (tmp_path / "run").exists()


def test_adapters_without_a_difference_on_disk_are_refused(tmp_path):
    moved(with_lora(AutoModelForCausalLM.from_pretrained(target()))).save_pretrained(tmp_path / "adapter")
    for adapter, message in {
        "continue": "adapter=continue: the method negates what is learnt, but what an adapter gains on top of another",
        "none": "model.path=adapter: holds an adapter, and the method needs a whole model; merge it",
        "lora": "model.path=adapter: holds an adapter",
    }.items():
        with pytest.raises(ValueError, match=message):
            run(tmp_path, "unlearn", "model.path=adapter", f"adapter={adapter}", *STEPS, "out=run")
    with pytest.raises(ValueError, match="adapter=qlora: the method negates what is learnt, but .* rounding of 4-bit weights"):
        Negate().check(str(target()), "qlora", "none")
    with pytest.raises(ModelError, match="does not exist"):
        Negate().check("./nowhere", "lora", "none")
    Negate(keep_trained=True).check(str(target()), "lora", 2)
