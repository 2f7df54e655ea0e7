"""Small checkpoints on disk for the tests of weight arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def folder(path: Path, **tensors: Tensor) -> Path:
    """A checkpoint of a few tensors, with a config that says nothing."""
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text("{}")
    return path


def saved(model: nn.Module, path: Path, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Path:
    """What save_pretrained writes, in files of at most `shard`."""
    model.to(dtype).save_pretrained(path, max_shard_size=shard)
    return path


def tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def naive(base: Path, terms: list[tuple[float, Path, Path]], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Base plus coefficient * (finetuned - origin), with all models in memory at once."""
    result = {}
    for name, start in tensors(base).items():
        total = start.float()
        for coefficient, finetuned, origin in terms:
            total = total + coefficient * (tensors(finetuned)[name].float() - tensors(origin)[name].float())
        result[name] = total.to(dtype or start.dtype)
    return result


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Bit by bit, types and names included."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name]), name


def edit_json(path: Path, **changes: object) -> None:
    """Overwrites some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
