"""An adapter that is merged into its model: it says what it said attached to it, or is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.models import moved, tiny_model, tokenizer, with_lora
from tests.runs import compose_settings
from utils.weights.folders import ModelError
from utils.weights.models import Precision, load_model, merge, save_model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 40, 41]])


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"], ["q_proj", "v_proj"]])
@pytest.mark.parametrize("tied", [True, False])
def test_the_merged_model_is_the_attached_one(targets, tied, tmp_path):
    """A tied head would be changed with the embeddings: it is untied, and stays so on disk."""
    adapted = moved(with_lora(tiny_model(tie_word_embeddings=tied), targets), by=0.1)
    wanted = logits(adapted)
    merged = merge(copy.deepcopy(adapted))
    torch.testing.assert_close(logits(merged), wanted, atol=1e-4, rtol=0)
    save_model(merged, tokenizer(), tmp_path / "merged", torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded), wanted, atol=1e-4, rtol=0)
    assert loaded.config.tie_word_embeddings is (tied and not {"lm_head", "embed_tokens"} & set(targets))


def test_an_adapter_of_a_tied_head_is_loaded_as_it_was_trained(tmp_path):
    base = tiny_model(tie_word_embeddings=True)
    save_model(base, tokenizer(), tmp_path / "base", torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = moved(with_lora(loaded, ["lm_head", "q_proj"]), by=0.1)
    save_model(adapted, tokenizer(), tmp_path / "adapter", torch.float32)
    cfg = compose_settings("unlearn", "model=tiny", f"model.path={tmp_path / 'adapter'}").model
    merged = load_model(cfg, tokenizer(), Precision(torch.float32, False), seed=1)
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-4, rtol=0)


def test_rounding_to_bfloat16_is_no_fault():
    merged = merge(moved(with_lora(tiny_model().bfloat16()), by=0.05))
    assert merged.dtype == torch.bfloat16 and not any("lora" in name for name in merged.state_dict())


def test_a_merge_that_changes_what_is_said_is_refused(monkeypatch):
    adapted = moved(with_lora(tiny_model()), by=0.1)
    monkeypatch.setattr(type(adapted.base_model), "merge_and_unload", lambda self: self.unload())
    with pytest.raises(ModelError, match=r"cannot be merged: .* nats per token off; .*model.lora.target_modules=all-linear"):
        merge(adapted)
