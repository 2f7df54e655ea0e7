"""Loading and saving of models and tokenizers: random tiny models, Hub names, checkpoint folders, adapters, run folders."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from utils import ROOT
from utils.checks import first_line
from utils.distributed import barrier, is_main, main_first
from utils.files import whole_folder
from utils.weights.claims import LOADING, check_expected, check_whole, why

ADAPTER_FILE = "adapter_config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # of weights, as settings name them


class ModelError(ValueError):
    """The model or tokenizer cannot be loaded as asked; the message names key and remedy."""


@dataclass(frozen=True)
class Precision:
    """weights: dtype that the parameters are held in. autocast: whether matrix products run in bfloat16 over float32 weights."""

    weights: torch.dtype
    autocast: bool


def resolve_precision(name: str, model_dtype: str, training: bool) -> Precision:
    """auto: the model's own dtype on CUDA (as autocast over float32 weights in training), float32 on CPU, where it is faster."""
    if name == "auto":
        name = model_dtype if torch.cuda.is_available() else "float32"
    if name == "float32":
        return Precision(torch.float32, False)
    if name == "bfloat16" and training:
        return Precision(torch.float32, True)
    return Precision(torch.bfloat16, False)


def model_folder(path: Path | str, key: str = "model.path") -> str:
    """A run folder stands for the model in it; everything else (a checkpoint folder, a Hub name) stands for itself.

    Raises ModelError, with the key that it was given by, for a local folder that holds no model.
    """
    folder, name = Path(path).expanduser(), str(path)
    if (found := model_in(folder)) is not None:
        return str(found)
    looks_local = folder.exists() or name.startswith((".", "/", "~", "runs", "models")) or name.count("/") > 1
    if looks_local:
        state = "holds no model" if folder.exists() else "does not exist"
        raise ModelError(f"{key}={path} {state}; give a run folder, a checkpoint folder or a Hub name")
    return name


def model_in(folder: Path) -> Path | None:
    """The folder of the model or adapter in a run folder, or the folder itself if it is one; None if there is none."""
    places = (folder / "model", folder)
    return next((place for place in places if (place / "config.json").is_file() or is_adapter(place)), None)


def is_adapter(folder: Path | str) -> bool:
    """Whether a folder (as `model_folder` gives it) holds an adapter instead of a whole model."""
    return (Path(folder) / ADAPTER_FILE).is_file()


def load_tokenizer(model: DictConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `model.path`, else of `model.tokenizer`; its pad token falls back to EOS (masks go by length)."""
    own = None if model.path is None else Path(model_folder(model.path))
    has_one = own is not None and (not own.is_dir() or (own / "tokenizer_config.json").is_file())
    where = model_folder(model.path) if has_one or model.tokenizer is None else str(model.tokenizer)
    if (ROOT / where).is_dir():
        where = str(ROOT / where)
    try:
        with main_first():
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"model={model.name}: no tokenizer at {where} ({first_line(error)}); {_how_to_get(model)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model={model.name}: the tokenizer at {where} has no EOS token, so answers cannot end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: DictConfig, tokenizer: PreTrainedTokenizerBase, precision: Precision, seed: int, quantise: bool = False
) -> nn.Module:
    """The causal language model, an adapter found at `model.path` merged into its base. Raises ModelError if it cannot be had."""
    disable_progress_bar()  # the bars of training, scoring and generation say what one waits for
    if model.path is None:
        return _random_model(model, tokenizer, precision, seed)
    path = model_folder(model.path)
    try:
        with main_first():
            if is_adapter(path):
                merged = load_adapter(path, model, precision).merge_and_unload()
                return merged.requires_grad_(True)  # the adapter had frozen what lies under it
            return _pretrained(path, model, precision, quantise)
    except ModelError:
        raise
    except LOADING as error:
        raise ModelError(f"model.path={model.path} {why(path, error)}") from error


def load_adapter(path: str, model: DictConfig, precision: Precision, trainable: bool = False) -> PeftModel:
    """Base model plus the adapter in folder `path`. Raises ModelError if the base model is not where the adapter says.

    trainable: the adapter goes on training, on a frozen base.
    """
    base = PeftConfig.from_pretrained(path).base_model_name_or_path
    try:
        folder = model_folder(base or "")
    except ModelError as error:
        raise ModelError(
            f"model.path={model.path}: the base model {base} that its adapter belongs to does not exist; bring it back, or "
            f"change base_model_name_or_path in {Path(path) / ADAPTER_FILE}"
        ) from error
    return PeftModel.from_pretrained(_pretrained(folder, model, precision, quantise=False), path, is_trainable=trainable)


def add_adapter(model: nn.Module, adapter: DictConfig, lora: DictConfig, quantised: bool) -> PeftModel:
    """A fresh LoRA adapter on a frozen model. Weights of `adapter` win over the model's own LoRA settings."""
    settings = {**OmegaConf.to_container(lora), **{k: v for k, v in (adapter.lora or {}).items() if v is not None}}
    if quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = settings["target_modules"]
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings["r"],
            lora_alpha=settings["alpha"],
            lora_dropout=settings["dropout"],
            target_modules=targets if isinstance(targets, str) else list(targets),
        ),
    )


def save_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Writes a plain Hugging Face folder in `dtype`, or a PEFT folder as it is; the folder appears only when it is whole."""
    if is_main():
        if not isinstance(model, PeftModel):
            model = model.to(dtype)
        with whole_folder(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    barrier()


def _random_model(model: DictConfig, tokenizer: PreTrainedTokenizerBase, precision: Precision, seed: int) -> nn.Module:
    if model.architecture is None:
        raise ModelError(f"model={model.name}: model.path is null and there is no architecture to draw from; set model.path")
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        **OmegaConf.to_container(model.architecture), vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **special
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=precision.weights, attn_implementation=_attention(model.attn))


def _pretrained(path: str, model: DictConfig, precision: Precision, quantise: bool) -> nn.Module:
    found, report = AutoModelForCausalLM.from_pretrained(
        path,
        output_loading_info=True,
        dtype=precision.weights,
        attn_implementation=_attention(model.attn),
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
        quantization_config=_nf4() if quantise else None,
    )
    check_whole(report)
    check_expected(model.name, model.expects, path, found.config.to_dict())
    return found


def check_quantisation() -> None:
    """Raises ModelError if models cannot be loaded in 4 bit."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("adapter=qlora needs the package bitsandbytes; install it with: pip install bitsandbytes==0.50.2")


def _nf4() -> BitsAndBytesConfig:
    compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _attention(choice: str) -> str:
    if choice != "auto":
        return choice
    flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if flash else "sdpa"


def _how_to_get(model: DictConfig) -> str:
    if str(model.path).startswith("models/smollm2"):
        return "make it with: bash scripts/get_smollm2.sh"
    return "set model.path=DIR to a local copy, or check the name, your network and access rights"
