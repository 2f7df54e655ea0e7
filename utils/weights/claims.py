"""Whether weights are what their folder says they are, and what to do where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from utils.checks import first_line
from utils.files import read_json

SHOWN = 2  # names of tensors in one sentence
PICKLED = "pytorch_model.bin"
ADAPTER_WEIGHTS, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
LOADING = (OSError, ValueError, RuntimeError, SafetensorError)  # how a model that cannot be had is reported
CONVERT = (
    "python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{0}', use_safetensors=False)"
    ".save_pretrained('{0}')\""
)

CONVERT_ADAPTER = (
    "python -c \"import torch; from safetensors.torch import save_file as s; s(torch.load('{0}/adapter_model.bin', "
    "weights_only=True), '{0}/adapter_model.safetensors')\""
)


class WeightsError(ValueError):
    """Weights are not those of the model that their folder describes."""


def check_whole(report: Mapping[str, Any]) -> None:
    """Raises WeightsError for tensors that are missing, or that the model has no place for.

    report: what transformers says of a loading, less what its own lists allow: ties, buffers of older versions, vision towers.
    """
    for kind, words in (("missing_keys", "the folder lacks"), ("unexpected_keys", "the model has no place for")):
        names = sorted(map(str, report.get(kind, ())))
        if names:
            raise WeightsError(f"{words} {_some(names)}")


def check_adapter_file(folder: str) -> None:
    """Raises ValueError for an adapter whose weights are a pickle, or are not there; PEFT would read the pickle."""
    if (Path(folder) / ADAPTER_WEIGHTS).is_file():
        return
    if (Path(folder) / PICKLED_ADAPTER).is_file():
        how = CONVERT_ADAPTER.format(folder)
        raise ValueError(f"{folder} holds {PICKLED_ADAPTER}, a pickle; convert it, which runs none of its code, with: {how}")
    raise ValueError(f"{folder} holds an adapter without {ADAPTER_WEIGHTS}; copy the folder again")


def check_expected(name: str, expects: Mapping[str, Any], path: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError if a model is of another type, or has another vocabulary, than the file config/model/<name>.yaml says.

    expects: `model_type` and `vocab_size`; null: not compared. config: the model's, as its config.json has it.
    """
    text = config.get("text_config") or {}
    for key, wanted in expects.items():
        found = config.get(key) if key == "model_type" else text.get(key, config.get(key))
        if wanted is not None and found is not None and found != wanted:
            raise ValueError(
                f"model={name}: model.path={path} has {key}={found}, but model={name} is {wanted}; name the file of config/model "
                f"that it goes with, or say model.expects.{key}={found}"
            )


def local_config(folder: str) -> Mapping[str, Any] | None:
    """config.json of a local folder, as plain values; None for a Hub name, and for an adapter."""
    return read_json(Path(folder) / "config.json")


def why(path: str, error: Exception) -> str:
    """Why a model could not be loaded, in one sentence with what helps against it. path: a folder, or a Hub name."""
    folder, said = Path(path), first_line(error)
    if not folder.is_dir():
        return f"cannot be loaded ({said}); check the name, your network and access rights, or give a local copy"
    if isinstance(error, WeightsError):
        return f"holds other weights than its config.json describes: {said}; copy the folder again, or save the model anew"
    if (folder / PICKLED).is_file() and not list(folder.glob("*.safetensors")):
        return f"holds {PICKLED}, a pickle that may run any code; if you trust it, convert it with: {CONVERT.format(path)}"
    if not list(folder.glob("*.safetensors")):
        return "holds no weights (*.safetensors); copy the folder again"
    if isinstance(error, SafetensorError) or "safetensors" in said.lower():
        return f"has a damaged weights file ({said}); copy the folder again"
    if isinstance(error, RuntimeError) and "mismatched" in str(error):
        return "holds tensors of other shapes than its config.json describes; copy the folder again, or save the model anew"
    return f"cannot be loaded ({said}); copy the folder again, or check its config.json"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more tensors" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
