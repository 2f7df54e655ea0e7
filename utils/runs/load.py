"""What a run loads: the tokenizer with its prompts, the model that trains, the model that is evaluated."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import nn
from transformers import PreTrainedTokenizerBase

from utils.engine.engine import Engine
from utils.runs.settings import Settings
from utils.tokens.prompts import Encoder
from utils.weights.models import (
    Precision,
    add_adapter,
    is_adapter,
    load_adapter,
    load_model,
    load_tokenizer,
    model_folder,
    resolve_precision,
)
from utils.weights.reinforced import load_combined


def load_engine(cfg: DictConfig, encoder: Encoder) -> Engine:
    """The model to evaluate, on its device, in eval mode."""
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=False)
    if cfg.reinforced.path is None:
        model = load_model(cfg.model, encoder.tokenizer, precision, cfg.seed)
    else:
        model = load_combined(cfg, encoder.tokenizer, precision)
    return _evaluated(model, encoder)


def load_adapter_engine(cfg: DictConfig, encoder: Encoder) -> Engine:
    """The same with the adapter of `model.path` apart, whose tensors alone train: `load_engine` merges it into the weights.

    Raises ValueError if there is no adapter.
    """
    if cfg.reinforced.path is not None:
        raise ValueError("not with reinforced.path, where two models answer")
    path = None if cfg.model.path is None else model_folder(cfg.model.path)
    if path is None or not is_adapter(path):
        raise ValueError(f"model.path={cfg.model.path} holds no adapter")
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=False)
    return _evaluated(load_adapter(path, cfg.model, precision, trainable=True), encoder)


def _evaluated(model: nn.Module, encoder: Encoder) -> Engine:
    if torch.cuda.is_available():
        model = model.to(torch.device("cuda", torch.cuda.current_device()))
    return Engine(model.eval(), encoder.pad_id, hide=encoder.pad_id if encoder.masks_inner_eos else None)


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
