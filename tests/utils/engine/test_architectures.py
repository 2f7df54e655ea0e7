"""Every architecture: numbers and texts are those of the model alone, or the model is refused in one sentence."""

from __future__ import annotations

import logging
from itertools import product

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM

from losses.npo import NPO
from tests.architectures import EVERY, FEW, PROMISED, VOCABULARY, WINDOW, tiny
from tests.models import tokenizer
from tests.runs import REAL, compose_settings
from utils.engine.continuations import Beginning, continue_ids, how_together
from utils.engine.engine import Engine
from utils.engine.miniature import miniature, positions, windows
from utils.engine.reference import AdapterReference, reference_streams
from utils.engine.sampling import Draw, Sampler, Sampling
from utils.runs.load import load_engine
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder, Template
from utils.training.batching import largest_micro_batch
from utils.weights.models import add_adapter, load_tokenizer, merge, save_model

PAD = 0
TOLERANCE = 1e-4
NEW = 6
# As PEFT says it.
WITHOUT_ADAPTER = {"mamba", "falcon_mamba", "falcon_h1"}
REFUSED = {"recurrent_gemma": "its logits are not those of its output head"}
# Texts past the positions that these were made for change with what stands beside them.
SHORT_ONLY = {"llama-dynamic", "phi3-longrope"}
KERNELS = ("sdpa", "eager")


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(1000 * seed + count)
    return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())


def pairs(prompt: int, answers: tuple[int, ...], others: int) -> list[Example]:
    """Answers of so many tokens to one prompt, a prompt that begins like it, and one that stands for itself."""
    shared = ids(prompt)
    own = [Example(shared, ids(length, seed)) for seed, length in enumerate(answers)]
    return [*own, Example(shared[: prompt // 2] + ids(3, 7), ids(others, 8)), Example(ids(3, 9), ids(5, 9))]


# Below and beyond the window, at its border, and so many that a packed line is wider than all positions.
TEXTS = {
    "short": pairs(10, (9, 13), 4),
    "border": pairs(WINDOW - 8, (8, 9, 3), 5),
    "deeper": pairs(WINDOW - 8, (8, 10, 3), 5),
    "long": pairs(45, (30, 18), 11),
    "wide": pairs(11, (13,) * 50, 6),
}


@torch.no_grad()
def alone(model: nn.Module, examples: list[Example]) -> Tensor:
    """(answer tokens,) log-probabilities from one plain forward pass of each text."""
    found = []
    for example in examples:
        text = torch.tensor([example.prompt + example.answer[:-1]])
        logits = model(input_ids=text, use_cache=False).logits[0, len(example.prompt) - 1 :]
        found.append(logits.float().log_softmax(-1)[torch.arange(len(example.answer)), torch.tensor(example.answer)])
    return torch.cat(found)


@torch.no_grad()
def scored(engine: Engine, examples: list[Example]) -> Tensor:
    return engine.statistics(engine.pack({"texts": examples}), {"texts": ("logp",)}, ("logp",))[:, 0]


def worst(found: Tensor, wanted: Tensor) -> float:
    return (found - wanted).abs().max().item()


def made(name: str, kernel: str) -> nn.Module:
    try:
        return tiny(name, kernel)
    except ValueError as error:
        assert "does not support an attention implementation" in str(error)
        pytest.skip("no such kernel")


def engine_of(name: str, kernel: str) -> Engine:
    model = made(name, kernel)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            Engine(model, PAD)
        pytest.skip("refused")
    return Engine(model, PAD)


def texts(name: str) -> dict[str, list[Example]]:
    return {kind: rows for kind, rows in TEXTS.items() if name not in SHORT_ONLY or kind != "long"}


class Checks:
    """What holds for each of them."""

    def test_log_probabilities_are_those_of_each_text_alone(self, name, kernel):
        engine = engine_of(name, kernel)
        for kind, examples in texts(name).items():
            wanted = alone(engine.model, examples)
            assert worst(scored(engine, examples), wanted) <= TOLERANCE, kind
            engine.shared, was = False, engine.shared
            assert worst(scored(engine, examples), wanted) <= TOLERANCE, f"{kind}, in a batch"
            engine.shared = was

    def test_texts_are_those_of_each_prompt_alone(self, name, kernel):
        model = made(name, kernel)
        whole = 0 if name in SHORT_ONLY else 30  # tokens, beyond the window
        for common, lengths in ((0, (3, 5, 8, 8, 12, 13)), (0, (3, 9, 30, 30, 40, 38 + whole)), (6, (8, 8, 10, 12, 9, 7))):
            prompts = [ids(common) + ids(length - common, row + 1) for row, length in enumerate(lengths)]
            assert_same_texts(model, prompts, common)
        prompts = [ids(20) + ids(length, length) for length in (3, 9, 12, 12, 4, 2 + whole)]
        assert_same_texts(model, prompts, 20)

    def test_two_steps_with_an_adapter_saved_merged_and_scored(self, name, kernel, tmp_path):
        model = engine_of(name, kernel).model
        if name in WITHOUT_ADAPTER:
            with pytest.raises(ValueError, match="incompatible with Mamba-based models"):
                adapted(model)
            return
        before, after = train(Engine(adapted(model), PAD), tmp_path)
        assert worst(before, after) > 1e-3, "nothing was learnt"
        merged = merge(load_with_adapter(name, kernel, tmp_path))
        assert worst(scored(Engine(merged, PAD), TEXTS["short"]), after) <= TOLERANCE


def assert_same_texts(model: nn.Module, prompts: list[tuple[int, ...]], common: int) -> None:
    beginning = Beginning.of(model, prompts[0][:common]) if common and how_together(model).begins else None
    together = continue_ids(model, prompts, PAD, (), NEW, beginning=beginning)
    for prompt, found in zip(prompts, together, strict=True):
        wanted, close = greedy(model, prompt)
        assert found[:close] == wanted[:close], (common, len(prompt))


@torch.no_grad()
def greedy(model: nn.Module, prompt: tuple[int, ...]) -> tuple[list[int], int]:
    """A prompt's own continuation, and its first step at which the two best tokens lie within 1e-4."""
    text, close = list(prompt), NEW
    for step in range(NEW):
        logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
        best, second = logits.topk(2).values.tolist()
        close = min(close, step) if best - second < 1e-4 else close
        text.append(logits.argmax().item())
    return text[len(prompt) :], close


def adapted(model: nn.Module) -> nn.Module:
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
    torch.manual_seed(1)
    return add_adapter(model, OmegaConf.create({"lora": None}), OmegaConf.create(lora), quantised=False)


def train(engine: Engine, folder) -> tuple[Tensor, Tensor]:
    """Two steps of NPO with a KL term against the model without its adapter; scores before and after."""
    loss = NPO(retain="kl")
    streams = {"forget": TEXTS["short"][:2], "retain": TEXTS["short"][2:]}
    reference = AdapterReference(engine, reference_streams(loss.needs))
    optimizer = AdamW([p for p in engine.model.parameters() if p.requires_grad], lr=0.02)
    before = scored(engine, TEXTS["short"])
    engine.model.train()
    for _ in range(2):
        packed = engine.pack({stream: streams[stream] for stream in loss.needs})
        loss(**engine.tables(packed, loss.needs, reference.values(packed))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    engine.model.eval()
    save_model(engine.model, tokenizer(), folder / "adapter", torch.float32)
    return before, scored(engine, TEXTS["short"])


def load_with_adapter(name: str, kernel: str, folder) -> nn.Module:
    return PeftModel.from_pretrained(made(name, kernel), folder / "adapter")


# One kernel of each in the ordinary suite: the one that model.attn=auto takes.
QUICK = [("eager" if name in ("gpt_oss", "mpt") else "sdpa", name) for name in FEW]


@pytest.mark.parametrize(("kernel", "name"), QUICK)
class TestFew(Checks):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "name"), [pair for pair in product(KERNELS, EVERY) if pair not in QUICK])
class TestEvery(Checks):
    pass


def test_what_was_promised_is_not_refused():
    assert not REFUSED.keys() & PROMISED.keys() and len(EVERY) >= 60


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "gpt_oss"])
def test_sharing_stays_as_long_as_no_pair_is_deeper_than_the_smallest_window(name):
    engine = Engine(tiny(name), PAD)
    assert engine.limits.window == WINDOW
    assert engine.pack({"x": TEXTS["border"]}).shared and not engine.pack({"x": TEXTS["deeper"]}).shared
    assert engine.pack({"x": TEXTS["wide"]}).input_ids.shape[1] > 512


def test_a_window_that_no_name_tells_is_noticed():
    """A number of which nobody knows what it counts may be a window: pairs share lines only as far as it reaches."""
    engine = Engine(tiny("llama4_text", attn_temperature_tuning=False, floor_scale=40), PAD)
    assert engine.limits.window == WINDOW


def test_rope_that_depends_on_the_longest_text_is_refused_beyond_what_the_model_was_made_for():
    for name in ("llama-dynamic", "phi3-longrope"):
        model = tiny(name)
        Engine(model, PAD, longest=48)
        with pytest.raises(ValueError, match="model.max_length: a text may have 49 tokens, .*; set model.max_length=48"):
            Engine(model, PAD, longest=49)
        with pytest.raises(ValueError, match="set model.max_length=48"):
            Engine(model, PAD).pack({"x": TEXTS["long"]})
        with pytest.raises(ValueError, match="set model.max_length=48"):
            continue_ids(model, [ids(50), ids(4)], PAD, (), 2)


def test_learnt_positions_end(caplog):
    with pytest.raises(ValueError, match="beyond 512 this model has no positions"):
        Engine(tiny("gpt2"), PAD, longest=513)


def test_fall_back_is_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            continue_ids(tiny("rwkv"), [ids(4), ids(7)], PAD, (), 2)
    said = [record.message for record in caplog.records if record.name == "utils.engine.continuations"]
    assert said == [
        "RwkvForCausalLM may say something else beside other prompts: it continues one prompt at a time (same texts, more time)"
    ]


def test_answers_that_are_drawn_do_not_depend_on_the_batch_either():
    model, prompts = tiny("rwkv"), [ids(4), ids(7), ids(4, 1), ids(9)]
    draws = [Draw(Sampling(), "task", index) for index in range(4)]
    together = continue_ids(model, prompts, PAD, (), NEW, Sampler(draws))
    apart = [continue_ids(model, [prompt], PAD, (), NEW, Sampler([draw]))[0] for prompt, draw in zip(prompts, draws, strict=True)]
    assert together == apart


def test_every_number_that_may_be_a_window_is_made_small():
    lengths = {"sliding_window": 4096, "local_spans": [128, 256], "reach": 77, "max_position_embeddings": 900}
    config = LlamaConfig(**lengths, num_hidden_layers=40)
    assert windows(config) == [77, 128, 256, 4096] and positions(config) == [900]
    with torch.device("meta"):
        small = miniature(LlamaForCausalLM(config))
    assert small.config.local_spans == [16, 16] and small.config.sliding_window == small.config.reach == 16
    assert small.config.max_position_embeddings == 48 and small.config.num_hidden_layers == 40  # any of them may have the window
    with torch.device("meta"):
        assert miniature(LlamaForCausalLM(LlamaConfig(num_hidden_layers=40))).config.num_hidden_layers == 4


def test_trials_use_up_no_random_numbers_and_are_made_once(monkeypatch):
    model = tiny("qwen3", vocab_size=103)
    torch.manual_seed(3)
    Engine(model, PAD)
    how_together(model)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
    monkeypatch.setattr("utils.engine.trials.miniature", lambda model: pytest.fail("tried again"))
    Engine(tiny("qwen3", vocab_size=103), PAD)


def test_architecture_without_a_miniature_goes_the_slow_way(monkeypatch):
    monkeypatch.setattr("utils.engine.trials.miniature", lambda model: None)
    model = tiny("llama", vocab_size=107)
    engine = Engine(model, PAD)
    assert not engine.shared
    assert worst(scored(engine, TEXTS["long"]), alone(model, TEXTS["long"])) <= TOLERANCE
    assert_same_texts(model, [ids(4), ids(9), ids(9, 2)], 0)


@pytest.mark.skipif(REAL is None, reason="no LETHE_SHARED")
@pytest.mark.parametrize("name", ["mistral_window64", "gemma3_multimodal", "pad_beyond_embeddings", "tied_llama"])
def test_models_that_went_wrong(name, monkeypatch):
    """As the scripts load them."""
    folder = REAL / "cases" / "models" / name
    if not folder.is_dir():
        pytest.skip("no such folder")
    any_type = ("model.expects.model_type=null", "model.expects.vocab_size=null")
    cfg = compose_settings("evaluate", f"model.path={folder}", *any_type)
    engine = load_engine(cfg.model, Encoder(load_tokenizer(cfg.model), Template("plain", "", "", "")), "float32", 1)
    texts = [Example(ids(60), ids(40, 1)), Example(ids(60), ids(9, 2)), Example(ids(4), ids(6))]
    assert worst(scored(engine, texts), alone(engine.model, texts)) <= TOLERANCE
    pad = load_tokenizer(cfg.model).pad_token_id
    together = continue_ids(engine.model, [ids(90), ids(4)], pad, (), NEW)
    for prompt, found in zip([ids(90), ids(4)], together, strict=True):
        wanted, close = greedy(engine.model, prompt)
        assert found[:close] == wanted[:close]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 0))
    assert largest_micro_batch(engine.model.config.get_text_config(), 100, False) >= 1


@pytest.mark.parametrize("pad", [-1, VOCABULARY, 32000])
def test_padding_with_an_id_outside_the_embeddings(pad):
    model = tiny("llama")
    engine = Engine(model, pad)
    assert worst(scored(engine, TEXTS["short"]), alone(model, TEXTS["short"])) <= TOLERANCE
    assert continue_ids(model, [ids(3), ids(7)], pad, (), 4) == continue_ids(model, [ids(3), ids(7)], PAD, (), 4)
