"""Who's Harry Potter: two models as one give the numbers of the formula, in scoring and in generation, at linear cost."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, LogitsProcessorList

from tests.architectures import tiny
from tests.models import ITEMS, SUPPORTED, encoder, moved, moved_copy, random_examples, tiny_model, tokenizer, with_lora
from tests.naive import naive_tables
from tests.runs import QUICK_EVALUATION, compose_settings, run, target
from utils.engine.engine import Engine
from utils.engine.generation import generate
from utils.engine.head import output_head
from utils.files import read_json, read_rows
from utils.fingerprint import weights_hash
from utils.tokens.example import Example
from utils.weights.folders import ModelError, check_combined
from utils.weights.models import Precision, save_model
from utils.weights.reinforced import CombinedHead, CombinedModel, combined_logits, load_combined

V, PAD, EOS = 101, 0, 2
FLOAT32 = Precision(torch.float32, False)


def small(family: str = "llama", seed: int = 0, **settings) -> nn.Module:
    return tiny_model(family, seed=seed, vocabulary=V, pad_token_id=PAD, bos_token_id=1, eos_token_id=EOS, **settings)


class Slow:
    """The combination as one would write it down: both models with all their logits, and no cache."""

    device = torch.device("cpu")

    def __init__(self, base: nn.Module, reinforced: nn.Module, alpha: float):
        self.models, self.alpha = (copy.deepcopy(base), copy.deepcopy(reinforced)), alpha

    @torch.no_grad()
    def __call__(self, **inputs) -> SimpleNamespace:
        v_b, v_r = (model(**inputs, use_cache=False).logits for model in self.models)
        return SimpleNamespace(logits=v_b - self.alpha * (v_r - v_b).clamp(min=0))

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """`count` new ids at most, the whole prefix read for every one; an EOS ends them."""
        ids = list(prompt)
        while len(ids) < len(prompt) + count and ids[-1] != EOS:
            ids.append(int(self(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]


CAPPED = {"attention": "eager", "final_logit_softcapping": 3.0}


def pair(family: str = "llama", alpha: float = 2.0) -> tuple[CombinedModel, Slow]:
    base = small(family, **(CAPPED if family == "gemma2" else {}))
    reinforced = moved_copy(base, by=0.1)
    slow = Slow(base, reinforced, alpha)
    return CombinedModel(base, reinforced, alpha), slow


def left_padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def greedy(count: int, **settings) -> GenerationConfig:
    return GenerationConfig(do_sample=False, max_new_tokens=count, pad_token_id=PAD, eos_token_id=[EOS], **settings)


PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18, 19, 20]]


@pytest.mark.parametrize(
    "alpha, logits, probabilities",
    [
        (0.0, [2, 1, 0], [0.6652409557748219, 0.24472847105479764, 0.09003057317038046]),
        (1.0, [1, 1, -0.2], [0.434556976905065, 0.434556976905065, 0.13088604618987004]),
        (5.0, [-3, 1, -1], [0.01587623997646677, 0.8668133321973348, 0.11731042782619837]),
    ],
)
def test_formula_by_hand(alpha, logits, probabilities):
    """relu(v_r - v_b) = [1, 0, 0.2]; alpha = 0 leaves the target as it is."""
    v_b, v_r = torch.tensor([[2, 1, 0], [3, 0.5, 0.2]], dtype=torch.float64)
    found = combined_logits(v_b, v_r, alpha)
    torch.testing.assert_close(found, torch.tensor(logits, dtype=torch.float64), atol=1e-15, rtol=0)
    torch.testing.assert_close(found.softmax(-1), torch.tensor(probabilities, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("family", [*SUPPORTED, "gemma2"])
def test_the_engine_scores_the_combination(family, shared):
    model, slow = pair(family)
    engine = Engine(model, PAD)
    assert engine.shared and engine.vocabulary == V and engine.dtype == torch.float32
    engine.shared = shared
    streams = {"x": random_examples(9, V, 5, prompts=2)}
    needs = {"x": ("logp", "entropy", "hit")}
    found = engine.tables(engine.pack(streams), needs)["x"]
    wanted = naive_tables(slow, slow, needs, streams, PAD)["x"]
    for name in needs["x"]:
        torch.testing.assert_close(found[name][found.mask].double(), wanted[name][wanted.mask].double(), atol=1e-4, rtol=1e-4)


def test_an_alpha_near_zero_scores_as_the_target_does():
    base = small()
    examples = {"x": random_examples(6, V, 1)}
    alone = Engine(copy.deepcopy(base), PAD)
    wanted = alone.tables(alone.pack(examples), {"x": ("logp",)})["x"]["logp"]
    both = Engine(CombinedModel(base, moved_copy(base, by=0.1), 1e-9), PAD)
    torch.testing.assert_close(both.tables(both.pack(examples), {"x": ("logp",)})["x"]["logp"], wanted, atol=1e-5, rtol=0)


def test_the_models_may_differ_in_width_but_not_in_vocabulary():
    base, wide = small(), small(seed=3, hidden_size=96, num_hidden_layers=1)
    slow = Slow(base, wide, 0.5)
    found = CombinedModel(base, wide, 0.5)(torch.tensor([PROMPTS[0]])).logits
    torch.testing.assert_close(found, slow(input_ids=torch.tensor([PROMPTS[0]])).logits, atol=1e-5, rtol=1e-5)
    other = tiny_model(vocabulary=V + 1, pad_token_id=PAD, bos_token_id=1, eos_token_id=EOS)
    with pytest.raises(ModelError, match="the target model has 101 tokens and the reinforced model 102; give as reinforced.path"):
        CombinedModel(small(), other, 1.0)


def test_no_more_than_a_chunk_of_logits_lives_at_a_time(monkeypatch):
    model, _ = pair()
    engine = Engine(model, PAD, chunk_bytes=4 * V * 3)
    rows: dict[str, list[int]] = {"target": [], "reinforced": []}
    for name, seen in rows.items():
        project = getattr(model.head, name).forward
        watched = lambda hidden, p=project, s=seen: s.append(hidden.shape[0]) or p(hidden)  # noqa: E731
        monkeypatch.setattr(getattr(model.head, name), "forward", watched)
    examples = random_examples(9, V, 5)
    engine.statistics(engine.pack({"x": examples}), {"x": ("logp",)}, ("logp",))
    tokens = sum(map(len, examples))
    assert all(max(seen) == 3 and sum(seen) == tokens for seen in rows.values())


def test_bfloat16_models_are_combined_in_float32():
    """256 - 0.25 * (258 - 256) = 255.5, where bfloat16 goes in steps of 1."""
    heads = [nn.Linear(1, 1, bias=False, dtype=torch.bfloat16) for _ in range(2)]
    for head, value in zip(heads, (256.0, 258.0), strict=True):
        nn.init.constant_(head.weight, value)
    found = CombinedHead(*heads, alpha=0.25)(torch.ones(1, 2, dtype=torch.bfloat16))
    assert found.dtype == torch.float32 and found.item() == 255.5


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "whole prefix"])
@pytest.mark.parametrize("family", SUPPORTED)
def test_generation_equals_reading_the_whole_prefix_for_every_token(family, cached):
    """Prompts of four lengths in one left-padded batch, each as if it stood alone."""
    model, slow = pair(family)
    ids, mask = left_padded(PROMPTS)
    output = model.generate(ids, attention_mask=mask, generation_config=greedy(12, use_cache=cached))
    assert torch.equal(output[:, : ids.shape[1]], ids)
    for row, prompt in zip(output[:, ids.shape[1] :].tolist(), PROMPTS, strict=True):
        wanted = slow.greedy(prompt, 12)
        assert row == wanted + [PAD] * (len(row) - len(wanted))


def test_generation_depends_on_both_models():
    base = small()
    alone = [Slow(base, base, 1.0).greedy(prompt, 12) for prompt in PROMPTS]
    assert alone != [pair()[1].greedy(prompt, 12) for prompt in PROMPTS]


def test_every_token_passes_each_model_once():
    """A prompt of 7 and 12 new tokens: 7 + 11 places per row (the last is not read); whole prefixes are 7 + 8 + ... + 18."""
    model, _ = pair()
    fed: dict[str, list[int]] = {"target": [], "reinforced": []}
    for name, seen in fed.items():
        embeddings = getattr(model, name).get_input_embeddings()
        embeddings.register_forward_pre_hook(lambda _, args, s=seen: s.append(args[0].shape[1]))
    ids, mask = left_padded(PROMPTS)
    model.generate(ids, attention_mask=mask, generation_config=GenerationConfig(max_new_tokens=12, pad_token_id=PAD))
    assert fed == {"target": [7] + [1] * 11, "reinforced": [7] + [1] * 11}


def test_an_end_of_text_ends_a_row_and_the_others_go_on():
    """What row 1 says first is taken for the end."""
    model, slow = pair()
    end_id = slow.greedy(PROMPTS[1], 1)[0]
    ids, mask = left_padded(PROMPTS)
    config = GenerationConfig(do_sample=False, max_new_tokens=6, pad_token_id=PAD, eos_token_id=[end_id])
    output = model.generate(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()
    assert output[1] == [end_id] + [PAD] * 5
    free = [slow.greedy(prompt, 6) for prompt in PROMPTS]
    for row, wanted in zip(output, free, strict=True):
        end = wanted.index(end_id) + 1 if end_id in wanted else 6
        assert row[:end] == wanted[:end] and not any(row[end:])
    assert any(end_id not in wanted for wanted in free)


class Seen(LogitsProcessor):
    def __init__(self):
        self.logits: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.logits.append(scores.clone())
        return scores


def test_logits_processors_see_the_combined_logits():
    model, slow = pair()
    seen = Seen()
    ids = torch.tensor([PROMPTS[0]])
    model.generate(ids, torch.ones_like(ids), greedy(1), LogitsProcessorList([seen]))
    torch.testing.assert_close(seen.logits[0], slow(input_ids=ids).logits[:, -1], atol=1e-5, rtol=1e-5)


def test_habits_of_the_target_do_not_count_but_its_end_of_text_does():
    base = tiny_model()
    reinforced = moved_copy(base, by=0.1)
    plain = CombinedModel(copy.deepcopy(base), copy.deepcopy(reinforced), 2.0)
    base.generation_config = GenerationConfig(repetition_penalty=50.0, eos_token_id=7)
    model = CombinedModel(base, reinforced, 2.0)
    prompts = [encoder().generation_prompt(qa.question) for qa in ITEMS]
    assert list(generate(model, encoder(), prompts, 3, 12)) == list(generate(plain, encoder(), prompts, 3, 12))
    assert model.generation_config.eos_token_id == 7 and model.generation_config.repetition_penalty == 50.0


def test_beam_search_and_a_cached_forward_pass_are_refused():
    model, _ = pair()
    ids = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="num_beams=4: two models generate together without beams; use 1"):
        model.generate(ids, torch.ones_like(ids), greedy(2, num_beams=4))
    with pytest.raises(ValueError, match="use_cache=True: a forward pass of two models keeps no cache"):
        model(ids, use_cache=True)


def test_an_error_within_generation_leaves_the_target_as_it_was():
    model, slow = pair()
    ids = torch.tensor([PROMPTS[0]])
    with pytest.raises(ValueError):
        model.generate(ids, torch.ones_like(ids), greedy(-1))
    hidden = model.target(input_ids=ids).logits
    assert hidden.shape == (1, 7, 64)
    torch.testing.assert_close(model(ids).logits, slow(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_the_hash_of_the_weights_knows_both_models_and_alpha():
    def of(base_seed: int = 0, by: float = 0.1, alpha: float = 2.0) -> str:
        base = small(seed=base_seed)
        return weights_hash(CombinedModel(base, moved_copy(base, by), alpha))

    assert of() == of()
    assert len({of(), of(base_seed=1), of(by=0.2), of(alpha=2.0000001)}) == 4


def test_nothing_trains():
    model = CombinedModel(small("opt").train(), small("opt", seed=1).train(), 1.0)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_a_finite_number_above_zero(alpha):
    with pytest.raises(ValueError, match=f"reinforced.alpha={alpha}: write a number above 0"):
        CombinedModel(small(), small(seed=1), alpha)


@pytest.mark.parametrize("which", ["target", "reinforced"])
def test_logits_that_change_in_unknown_ways_are_refused(which):
    models = {"target": small(), "reinforced": small()}
    models[which] = tiny("recurrent_gemma")
    with pytest.raises(ValueError, match="RecurrentGemmaForCausalLM: its logits are not those of its output head"):
        CombinedModel(**models, alpha=1.0)


# From here on: models on disk, settings, evaluate.py.


@pytest.fixture(scope="module")
def reinforced(tmp_path_factory) -> Path:
    """The target of the runs after a "finetuning" on what is to be forgotten."""
    folder = tmp_path_factory.mktemp("combined") / "reinforced"
    save_model(moved(AutoModelForCausalLM.from_pretrained(target()), by=0.1), tokenizer(), folder, torch.float32)
    return folder


def combined(path: Path, alpha: float = 2.0) -> CombinedModel:
    """The target combined with the model at `path`, as evaluate.py loads them."""
    model = compose_settings("evaluate", f"model.path={target()}").model
    return load_combined(model, str(path), alpha, tokenizer(), FLOAT32, seed=42).eval()


def test_both_models_are_loaded(reinforced):
    model = combined(reinforced)
    slow = Slow(*(AutoModelForCausalLM.from_pretrained(path) for path in (target(), reinforced)), alpha=2.0)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(model(ids).logits, slow(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert output_head(model) is model.head


def test_a_reinforced_adapter_is_merged(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(target())
    adapted = moved(with_lora(base), by=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(target())
    adapted.save_pretrained(tmp_path / "adapter")
    model = combined(tmp_path / "adapter", 0.5)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        v_r = adapted(input_ids=ids).logits
        v_b = AutoModelForCausalLM.from_pretrained(target())(input_ids=ids).logits
    torch.testing.assert_close(model(ids).logits, v_b - 0.5 * (v_r - v_b).relu(), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_combined_is_refused_before_a_model_is_loaded(reinforced, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.weights.reinforced.load_model", lambda *_: pytest.fail("a model was loaded"))
    check_combined(str(target()), str(reinforced))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ModelError, match=r"^reinforced.path=.*empty holds no model; give a run folder, a checkpoint folder or a Hub"
    ):
        check_combined(str(target()), str(tmp_path / "empty"))
    with pytest.raises(ModelError, match=r"^reinforced.path=.*target is model.path itself, so nothing would be unlearned"):
        check_combined(str(target()), str(target()))
    with pytest.raises(ModelError, match=r"^reinforced.path=\S+: set model.path to the target model"):
        check_combined(None, str(reinforced))


def test_another_tokenizer_is_refused(reinforced, tmp_path):
    other = copy.deepcopy(tokenizer())
    other.add_tokens(["<another>"])
    save_model(AutoModelForCausalLM.from_pretrained(reinforced), other, tmp_path / "other", torch.float32)
    with pytest.raises(ModelError, match=r"^reinforced.path=.*other: its tokenizer is not that of model.path=.*target"):
        combined(tmp_path / "other")


def test_the_same_weights_under_another_name_are_refused(tmp_path):
    save_model(AutoModelForCausalLM.from_pretrained(target()), tokenizer(), tmp_path / "copy", torch.float32)
    with pytest.raises(
        ModelError, match=r"^reinforced.path=.*copy holds the weights of model.path=.*target, so nothing would be"
    ):
        combined(tmp_path / "copy")


def test_evaluate_scores_and_generates_with_the_combination(reinforced, tmp_path):
    """reinforced.path on the command line; the oracle's own scores are not combined with anything."""
    whp = (f"reinforced.path={reinforced}", "reinforced.alpha=0.5")
    for name, combination in (("whp", whp), ("plain", ())):
        oracle = shutil.copytree(target(), tmp_path / f"oracle_of_{name}", ignore=shutil.ignore_patterns("oracle"))
        common = ("split=forget05", f"model.path={target()}", *QUICK_EVALUATION, f"oracle={oracle}", "trust_oracle=true")
        run(tmp_path, "evaluate", *common, *combination, f"out={name}")
    slow = Slow(*(AutoModelForCausalLM.from_pretrained(path) for path in (target(), reinforced)), alpha=0.5)
    rows = read_rows(tmp_path / "whp" / "generations.jsonl")
    (row,) = [row for row in rows if (row["task"], row["index"]) == ("forget", 0)]
    example = encoder().example(row["question"], row["truth"])
    scores = pd.read_parquet(tmp_path / "whp" / "scores.parquet")
    found = scores[(scores["task"] == "forget") & (scores["role"] == "answer") & (scores["index"] == 0)]["logp"].item()
    np.testing.assert_allclose(found, logp_of(slow, example), atol=1e-4)
    ids, ends = list(example.prompt), tokenizer().eos_token_id
    while len(ids) < len(example.prompt) + 8 and ids[-1] != ends:
        ids.append(int(slow(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert row["generation"] == tokenizer().decode(ids[len(example.prompt) :], skip_special_tokens=True).strip()

    whp, plain = (read_json(tmp_path / name / "run.json") for name in ("whp", "plain"))
    assert whp["weights"] != plain["weights"] and whp["requests"] == plain["requests"]
    of_oracle = [pd.read_parquet(tmp_path / name / "oracle.parquet") for name in ("whp", "plain")]
    pd.testing.assert_frame_equal(*of_oracle)


def logp_of(slow: Slow, example: Example) -> np.ndarray:
    ids = torch.tensor([example.prompt + example.answer])
    logp = slow(input_ids=ids).logits[0].log_softmax(-1)
    first = len(example.prompt)
    return np.array([logp[first + place - 1, token].item() for place, token in enumerate(example.answer)])
