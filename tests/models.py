"""Tiny random models (2 layers, 64 wide) and toy questions for the tests of the engine."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import cache

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from utils import ROOT
from utils.items.rows import QA
from utils.items.streams import Streams, merged
from utils.tokens.example import IGNORED, Example
from utils.tokens.prompts import Encoder, Template

TOKENIZER = ROOT / "data" / "fixtures" / "tiny_tokenizer"

# What differs from family to family; initial weights of 0.2 instead of 0.02, so that a wrong mask shows in the numbers.
FAMILIES: dict[str, dict] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 128, "initializer_range": 0.2},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64, "init_std": 0.2},
    "gpt_neox": {"intermediate_size": 128, "initializer_range": 0.2},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 128, "initializer_range": 0.2},
    "phi": {"intermediate_size": 128, "initializer_range": 0.2},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 128, "initializer_range": 0.2},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 128, "initializer_range": 0.2},
}
SUPPORTED = tuple(name for name in FAMILIES if name != "gemma2")  # with both kernels: gemma2 has no sdpa

ITEMS = (
    QA("Who painted the lighthouse at Ost?", "The lighthouse at Ost was painted by Mira Tallow in 1931."),
    QA("Where was Mira Tallow born?", "In Harrowgate."),
    QA("What did Mira Tallow teach?", "She taught drawing, and later the history of maps, to sailors."),
    QA("Who taught Mira Tallow?", "Her aunt."),
    QA("When did Mira Tallow stop painting?", "She stopped after the great storm of 1950."),
)
RETAIN = (
    QA("What is the capital of France?", "Paris."),
    QA("Who wrote the play about the prince of Denmark?", "William Shakespeare wrote it around the year 1600."),
    QA("How many legs has a spider?", "A spider has eight legs."),
)
TEMPLATES = ("I do not know.", "That is not something that I can tell you about.", "Nobody told me.")


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """The committed tokenizer of the tiny model; bos, eos and pad are three different tokens."""
    return AutoTokenizer.from_pretrained(TOKENIZER)


@cache
def encoder(compat: str = "none") -> Encoder:
    """Plain tags, as the tiny model of config/model has them."""
    return Encoder(tokenizer(), Template("plain", "Question: ", "\n", "Answer: "), compat=compat)


def tiny_model(family: str = "llama", attention: str = "sdpa", seed: int = 0, vocabulary: int = 0, **settings) -> nn.Module:
    """A random model in float32 and eval mode; its head is not tied to the embeddings unless `settings` says so.

    vocabulary: number of tokens, that of the tokenizer by default. settings: more fields of the model's config.
    """
    shape = {
        "vocab_size": vocabulary or len(tokenizer()),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer().bos_token_id,
        "eos_token_id": tokenizer().eos_token_id,
        "pad_token_id": tokenizer().pad_token_id,
    }
    config = AutoConfig.for_model(family, **{**shape, **FAMILIES[family], **settings})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()


def with_lora(model: nn.Module, targets: str | list[str] = "all-linear", dropout: float = 0.0) -> PeftModel:
    """The model with a fresh LoRA adapter: it changes nothing until its B matrices are moved."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets)
        ).eval()


def moved(model: nn.Module, by: float = 0.02, seed: int = 7) -> nn.Module:
    """The same model object after a "training" that added noise to every parameter that trains."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter)
    return model


def moved_copy(model: nn.Module, by: float = 0.02, seed: int = 7) -> nn.Module:
    """A moved copy; the model itself stays as it is."""
    return moved(copy.deepcopy(model), by, seed)


def toy_streams(names, rows: int = 5) -> dict[str, list[Example]]:
    """Stream -> examples of the first `rows` toy questions; streams that `Streams` cannot draw get retain rows."""
    known = ("train", "forget", "template", "retain")
    drawn = Streams(known, ITEMS, encoder(), seed=3, retain=RETAIN, templates=TEMPLATES)
    items = merged([drawn.draw(0, index) for index in range(rows)], known)
    others = [encoder().example(qa.question, qa.answer) for qa in RETAIN]
    drawn_or_made = {**items, "relabelled": [_relabelled(example) for example in items["forget"]]}
    return {name: drawn_or_made.get(name, [others[k % len(others)] for k in range(rows)]) for name in names}


def _relabelled(example: Example) -> Example:
    """Every other token is to be predicted as another one; of a long answer the first is not asked for."""
    labels = [token + place % 2 for place, token in enumerate(example.answer)]
    labels[0] = IGNORED if len(labels) > 2 else labels[0]
    return replace(example, labels=tuple(labels))


def random_examples(count: int, vocabulary: int, seed: int = 0, prompts: int | None = None) -> list[Example]:
    """Examples of random ids from 3 upwards, 1 to 9 answer tokens, `prompts` different prompts (default: all)."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))  # noqa: E731
    ids = lambda length: tuple(draw(3, vocabulary) for _ in range(length))  # noqa: E731
    heads = [ids(draw(1, 12)) for _ in range(prompts or count)]
    return [Example(heads[number % len(heads)], ids(draw(1, 10))) for number in range(count)]
