"""What a run loads: the tokenizer with its prompts, the model that trains, the model that is evaluated."""

from __future__ import annotations

from functools import partial

import torch
from omegaconf import DictConfig
from torch import nn

from utils.distributed import by_main, device
from utils.engine.engine import Engine
from utils.items.benchmark import Benchmark
from utils.runs.lineage import Origin
from utils.tokens.prompts import Encoder, Template
from utils.weights.folders import is_adapter, model_folder
from utils.weights.models import Precision, add_adapter, load_adapter, load_model, load_tokenizer, resolve_precision
from utils.weights.reinforced import load_combined


def make_encoder(model: DictConfig, benchmark: Benchmark, script: str, compat: str) -> Encoder:
    """The model's tokenizer, and prompts as `script` writes them: the model's, unless the benchmark has its own."""
    template, max_length = benchmark.prompts(script, Template(**model.template), model.max_length)
    return Encoder(load_tokenizer(model), template, max_length, compat)


def load_engine(model: DictConfig, encoder: Encoder, precision: str, seed: int, reinforced: DictConfig | None = None) -> Engine:
    """The model to evaluate, on its device, in eval mode. reinforced: `path` (null: the model alone) and `alpha`."""
    held = resolve_precision(precision, model.dtype, training=False)
    _check_weights(model.path, None if reinforced is None else reinforced.path)
    if reinforced is None or reinforced.path is None:
        loaded: nn.Module = load_model(model, encoder.tokenizer, held, seed)
    else:
        loaded = load_combined(model, reinforced.path, reinforced.alpha, encoder.tokenizer, held, seed)
    return _engine(loaded.eval().to(device()), encoder)


def load_adapter_engine(model: DictConfig, encoder: Encoder, precision: str, reinforced: DictConfig | None = None) -> Engine:
    """The same with the adapter of `model.path` apart, whose tensors alone train: `load_engine` merges it into the weights.

    Raises ValueError if there is no adapter.
    """
    if reinforced is not None and reinforced.path is not None:
        raise ValueError("not with reinforced.path, where two models answer")
    path = None if model.path is None else model_folder(model.path)
    if path is None or not is_adapter(path):
        raise ValueError(f"model.path={model.path} holds no adapter")
    loaded = load_adapter(path, model, resolve_precision(precision, model.dtype, training=False), trainable=True)
    return _engine(loaded.eval().to(device()), encoder)


def trainable_engine(model: DictConfig, adapter: DictConfig, encoder: Encoder, precision: Precision, seed: int) -> Engine:
    """The model to train, on its device: all its weights, a fresh adapter on it, or the one that it comes with."""
    quantised = adapter.name == "qlora"
    _check_weights(model.path)
    if adapter.name == "continue":
        loaded: nn.Module = load_adapter(model_folder(model.path), model, precision, trainable=True)
    else:
        loaded = load_model(model, encoder.tokenizer, precision, seed, quantised)
    if adapter.name in ("lora", "qlora"):
        torch.manual_seed(seed)
        loaded = add_adapter(loaded, adapter, model.lora, quantised)
    # In 4 bit it was loaded where it stays.
    return _engine(loaded if quantised else loaded.to(device()), encoder, precision.autocast)


def _check_weights(*paths: str | None) -> None:
    """Raises ValueError for a run folder whose weights are not those that its run wrote."""
    for path in paths:
        origin = by_main(partial(Origin.of, path))
        if origin is not None:
            origin.check_weights(model_folder(path))


def _engine(model: nn.Module, encoder: Encoder, autocast: bool = False) -> Engine:
    hide = encoder.pad_id if encoder.masks_inner_eos else None
    return Engine(model, encoder.pad_id, hide=hide, autocast=autocast, longest=encoder.max_length)
