"""Checkpoints on disk as named tensors: where each lies, which belong together in two of them.

Only headers are read here; a model is never loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, AutoModelForCausalLM

from utils.files import read_json
from utils.weights.claims import ADAPTER_WEIGHTS
from utils.weights.folders import ModelError, is_adapter, model_folder
from utils.weights.safetensors_stream import StoredTensor, WeightsError, read_header, slices

MODEL_WEIGHTS = "model.safetensors"
FROM_THE_HUB = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py")


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a folder. files: name of each file -> its tensors. index: what the index of shards says, if there is one."""

    folder: Path
    files: dict[str, tuple[str, ...]]
    tensors: dict[str, StoredTensor]
    index_name: str
    index: dict[str, Any] | None = None

    @classmethod
    def open(cls, path: Path, adapter: bool = False) -> Checkpoint:
        """A whole model, or an adapter, in one file or in shards.

        Raises WeightsError if there is none of that kind, or if it is damaged or quantised.
        """
        folder = local_folder(path)
        if adapter and not is_adapter(folder):
            raise WeightsError(f"{folder} is no adapter; give the folder of one")
        if not adapter and is_adapter(folder):
            raise WeightsError(f"{folder} is an adapter, not a whole model; merge it (merge_and_unload of PEFT) and save that")
        if not adapter and "quantization_config" in (read_json(folder / "config.json") or {}):
            raise WeightsError(f"{folder} is quantised; give a checkpoint in 16, 32 or 64 bit")
        file = ADAPTER_WEIGHTS if adapter else MODEL_WEIGHTS
        index_name = f"{file}.index.json"
        if (folder / file).is_file():
            tensors = read_header(folder / file)
            return cls(folder, {file: tuple(tensors)}, tensors, index_name)
        if not (folder / index_name).is_file():
            raise WeightsError(f"{folder} holds no {file}; save the model in safetensors format, as save_pretrained does")
        return cls(folder, *_shards(folder, index_name))


def _shards(folder: Path, index_name: str) -> tuple[dict, dict, str, dict]:
    """files, tensors, index_name and index of a checkpoint in several files."""
    path = folder / index_name
    index = read_json(path)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise WeightsError(f"{path} is damaged; copy or save the checkpoint again")
    files: dict[str, tuple[str, ...]] = {}
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        if not (folder / file).is_file():
            raise WeightsError(f"{folder / file} is missing, and {path.name} names it; copy or save the checkpoint again")
        found = read_header(folder / file)
        files[file] = tuple(name for name, where in index["weight_map"].items() if where == file)
        for name in files[file]:
            if name not in found:
                raise WeightsError(f"{folder / file} has no {name}, and {path.name} names it; save the checkpoint again")
            tensors[name] = found[name]
    return files, tensors, index_name, index


def local_folder(path: Path) -> Path:
    """The model folder that `path` stands for: itself, the model in a run folder, or the local copy of a Hub model.

    Raises WeightsError if there is none.
    """
    try:
        folder = Path(model_folder(path))
    except ModelError:
        raise WeightsError(f"{path} holds no model; give a run folder, a model folder or a Hub name") from None
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(str(path), allow_patterns=list(FROM_THE_HUB)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is no folder, and the Hub does not give it ({type(error).__name__}); give a run folder or a model folder"
        ) from error


def counterparts(base: Checkpoint, other: Checkpoint) -> dict[str, StoredTensor]:
    """Name of each floating-point tensor of `base` -> the same tensor in `other`.

    Names may differ where weights are tied: a checkpoint may hold such a tensor under any of its names, or under several.
    Raises WeightsError for a tensor that one of them lacks, another shape, or copies of a tied tensor that are not equal.
    """
    mine, theirs = _floats(base), _floats(other)
    tied = _tied(base.folder) if mine != theirs else {}
    for checkpoint in (base, other):
        for names in sorted(set(tied.values())):
            _check_copies(checkpoint, [name for name in names if name in checkpoint.tensors])
    found: dict[str, StoredTensor] = {}
    for name in sorted(mine):
        known = next((alias for alias in (name, *tied.get(name, ())) if alias in theirs), None)
        if known is None:
            raise _lacks(other, base.tensors[name], name)
        ours, stored = base.tensors[name], other.tensors[known]
        if stored.shape != ours.shape:
            raise WeightsError(
                f"{name} is {_size(ours)} in {ours.file} and {_size(stored)} in {stored.file}; give checkpoints of one model"
            )
        found[name] = stored
    for name in sorted(theirs - mine):
        if not mine.intersection(tied.get(name, ())):
            raise _lacks(base, other.tensors[name], name)
    return found


def _floats(checkpoint: Checkpoint) -> set[str]:
    return {name for name, stored in checkpoint.tensors.items() if stored.is_float}


def _tied(folder: Path) -> dict[str, tuple[str, ...]]:
    """Name -> all names of the same parameter, for the parameters of the model in `folder` that have several.

    The model is built without memory for its weights. One that needs code of its own, which is not run here, has no tied names.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError):
        return {}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def _check_copies(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    """Raises WeightsError if tensors that the model ties are not equal bit by bit."""
    for name in names[1:]:
        first, other = checkpoint.tensors[names[0]], checkpoint.tensors[name]
        same = (first.dtype, first.shape) == (other.dtype, other.shape)
        if not same or not all(
            torch.equal(first.read(*part).view(torch.uint8), other.read(*part).view(torch.uint8)) for part in slices(first)
        ):
            raise WeightsError(
                f"{other.file}: {name} differs from {names[0]}, but the base model ties them; give checkpoints that all tie "
                "them, or none (tie_word_embeddings in config.json)"
            )


def _lacks(checkpoint: Checkpoint, stored: StoredTensor, name: str) -> WeightsError:
    how = " in floating point" if name in checkpoint.tensors else ""
    return WeightsError(f"{checkpoint.folder} has no {name}{how}, but {stored.file} has; give checkpoints of one model")


def _size(stored: StoredTensor) -> str:
    return " x ".join(str(length) for length in stored.shape) or "one number"


def check_target(out: Path, inputs: Sequence[Path]) -> None:
    """Raises WeightsError if writing a model to `out` would destroy something else: an input, or what is no model."""
    target = out.resolve()
    for folder in inputs:
        if target == folder.resolve() or target in folder.resolve().parents:
            raise WeightsError(f"out={out} would replace {folder}, which is read; choose another out")
    if out.exists() and not out.is_dir():
        raise WeightsError(f"out={out}: there is a file of that name; choose another out")
    if out.exists() and any(out.iterdir()) and not (out / "config.json").is_file() and not is_adapter(out):
        raise WeightsError(f"out={out} exists and holds no model; choose another out")
