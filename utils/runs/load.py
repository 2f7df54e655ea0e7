"""What a run loads: the tokenizer with its prompts, the model that trains, the model that is evaluated."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from utils.engine.engine import Engine
from utils.runs.settings import Settings
from utils.tokens.prompts import Encoder
from utils.weights.models import Precision, add_adapter, load_adapter, load_model, load_tokenizer, model_folder, resolve_precision
from utils.weights.reinforced import load_combined


def load_engine(settings: Settings, encoder: Encoder) -> Engine:
    """The model to evaluate, on its device, in eval mode."""
    cfg = settings.cfg
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=False)
    if cfg.reinforced.path is None:
        model = load_model(cfg.model, encoder.tokenizer, precision, cfg.seed).eval()
    else:
        model = load_combined(cfg, encoder.tokenizer, precision)
    if torch.cuda.is_available():
        model = model.to(torch.device("cuda", torch.cuda.current_device()))
    return Engine(model, encoder.pad_id, hide=encoder.pad_id if encoder.masks_inner_eos else None)


def make_encoder(settings: Settings) -> Encoder:
    """Tokenizer of the model, prompts of model or benchmark. Loads no weights."""
    cfg = settings.cfg
    return Encoder(load_tokenizer(cfg.model), settings.template, settings.max_length, cfg.compat)


def trainable(settings: Settings, tokenizer: PreTrainedTokenizerBase, precision: Precision) -> nn.Module:
    cfg = settings.cfg
    quantised = cfg.adapter.name == "qlora"
    if cfg.adapter.name == "continue":
        model = load_adapter(model_folder(cfg.model.path), cfg.model, precision, trainable=True)
    else:
        model = load_model(cfg.model, tokenizer, precision, cfg.seed, quantised)
    if cfg.adapter.name in ("lora", "qlora"):
        torch.manual_seed(cfg.seed)
        model = add_adapter(model, cfg.adapter, cfg.model.lora, quantised)
    if torch.cuda.is_available() and not quantised:
        model = model.to(torch.device("cuda", torch.cuda.current_device()))
    return model
