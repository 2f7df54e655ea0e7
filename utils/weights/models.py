"""Loading and saving of models and tokenizers: random tiny models, Hub names, checkpoint folders, adapters, run folders."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from utils import ROOT
from utils.checks import first_line, last_line, whole
from utils.distributed import barrier, is_main, main_first
from utils.files import read_json, whole_folder, write_json
from utils.weights.adapters import ADAPTER_FILE, NAME, BaseError, base_of, keep_base
from utils.weights.claims import LOADING, check_adapter_file, check_expected, check_whole, why
from utils.weights.folders import ModelError, is_adapter, model_folder

CHECKED = 12  # tokens that a merged model is checked on
MERGED = {True: 1e-5, False: 0.02}  # nats that merging may cost in float32, and in types that round to three digits
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # of weights, as settings name them


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


def load_tokenizer(model: DictConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the folder `model.path`, else `model.tokenizer`, else that of the Hub name `model.path`.

    Its pad token falls back to EOS (masks go by length).
    """
    own = None if model.path is None else model_folder(model.path)
    brings_one = own is not None and (Path(own) / "tokenizer_config.json").is_file()
    where = own if brings_one or model.tokenizer is None else str(model.tokenizer)
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
    with _one_sentence(model, path), main_first():
        if is_adapter(path):
            merged = merge(load_adapter(path, model, precision))
            return merged.requires_grad_(True)  # the adapter had frozen what lies under it
        return _pretrained(path, model, precision, quantise)


def load_adapter(path: str, model: DictConfig, precision: Precision, trainable: bool = False) -> PeftModel:
    """Base model plus the adapter in folder `path`. Raises ModelError if the base model is not where the adapter says, and as
    `load_model`.

    trainable: the adapter goes on training, on a frozen base.
    """
    try:
        check_adapter_file(path)
    except ValueError as error:
        raise ModelError(f"model.path={model.path}: {error}") from error
    base = base_of(Path(path))
    try:
        folder = model_folder(base or "")
    except ModelError as error:
        raise ModelError(
            f"model.path={model.path}: the base model {base} that its adapter belongs to does not exist; bring it back, or "
            f"change {NAME} in {Path(path) / ADAPTER_FILE}"
        ) from error
    with _one_sentence(model, folder):
        under = _pretrained(folder, model, precision, quantise=False)
    with _one_sentence(model, path):
        adapted = PeftModel.from_pretrained(under, path, is_trainable=trainable)
    setattr(adapted.active_peft_config, NAME, folder)
    return adapted


@contextmanager
def _one_sentence(model: DictConfig, path: str) -> Iterator[None]:
    """Whatever libraries raise over the weights in `path` becomes a ModelError that says what helps against it."""
    try:
        yield
    except (ModelError, BaseError, torch.OutOfMemoryError):
        raise  # of the last, nothing is wrong with the files
    except LOADING as error:
        under = "" if path == model_folder(model.path) else f": its base {path}"
        raise ModelError(f"model.path={model.path}{under} {why(path, error)}") from error


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
            exclude_modules=_routers(model) if targets == "all-linear" else None,
        ),
    )


@torch.no_grad()
def _routers(model: nn.Module) -> list[str] | None:
    """Linear layers that return more than a tensor, as some mixtures of experts choose theirs: an adapter cannot add to that."""
    own = sys.modules[type(model).__module__].__dict__.values()
    odd = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and type(layer) in own and type(layer).forward is not nn.Linear.forward
    ]
    return [
        name for name, layer in odd if not isinstance(layer(layer.weight.new_zeros(1, layer.in_features)), torch.Tensor)
    ] or None


@torch.no_grad()
def merge(model: PeftModel) -> nn.Module:
    """The model with its adapter merged into its weights, which takes the adapter off for good.

    A head that is tied to the embeddings is untied first if the adapter changes one of them: merged, it would change both.
    Raises ModelError if the result does not say what the model with its adapter said.
    """
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    some = torch.arange(3, 3 + CHECKED, device=device)[None] % vocabulary
    model.eval()
    attached = model(input_ids=some, use_cache=False).logits.float().log_softmax(-1)
    _untie(model)
    merged = model.merge_and_unload()
    now = merged(input_ids=some, use_cache=False).logits.float().log_softmax(-1)
    gap = (attached.exp() * (attached - now)).sum(-1).abs().max().item()
    if not gap <= MERGED[merged.dtype == torch.float32]:
        raise ModelError(
            f"the adapter cannot be merged: without it the model is {gap:.2g} nats per token off; train one on other layers "
            "(model.lora.target_modules=all-linear)"
        )
    return merged


def _untie(model: PeftModel) -> None:
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or not any(isinstance(end, BaseTunerLayer) for end in ends):
        return
    embeddings, head = (end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends)
    if head.weight is embeddings.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False


def save_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Writes a plain Hugging Face folder in `dtype`, or a PEFT folder as it is; the folder appears only when it is whole.

    The model stays as it is: it may train on.
    """
    if is_main():
        with whole_folder(folder) as partial:
            if isinstance(model, PeftModel):
                model.save_pretrained(partial)
                keep_base(partial, folder, model.active_peft_config.base_model_name_or_path)
            elif all(tensor.dtype == dtype for tensor in model.parameters()):
                model.save_pretrained(partial)
            else:
                model.save_pretrained(partial, state_dict=_converted(model, dtype))
                config = read_json(partial / "config.json") or {}
                name = str(dtype).removeprefix("torch.")  # what transformers wrote is the type that the model still has
                write_json(
                    partial / "config.json", {**config, **{key: name for key in ("dtype", "torch_dtype") if key in config}}
                )
            tokenizer.save_pretrained(partial)
    barrier()


def _converted(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies of all tensors in main memory, numbers in `dtype`; tied ones stay one tensor."""
    copies: dict[tuple, torch.Tensor] = {}
    found = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place not in copies:
            copies[place] = tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        found[name] = copies[place]
    return found


def check_architecture(architecture: DictConfig | None) -> None:
    """Raises ModelError if no model can be made of the `model.architecture` node, which is tried without any weights."""
    if architecture is None:
        return
    options = {str(key): architecture[key] for key in architecture}
    for key, value in options.items():
        if key.startswith(("num_", "max_")) or key.endswith("_size"):
            whole(f"model.architecture.{key}", value, 1)
    try:
        config = AutoConfig.for_model(**options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device="meta"))
    except NotImplementedError:
        return  # a layer that nothing is known of without its numbers
    except Exception as error:  # libraries find out in many ways that sizes do not fit each other
        said = last_line(error)
        raise ModelError(f"model.architecture: no model can be made of it ({said}); change it, or set model.path") from error


def without_numbers(model: nn.Module) -> nn.Module:
    """A copy of the model that takes next to no memory, for `with_parameters`."""
    return with_parameters(model, {name: parameter.detach().to("meta") for name, parameter in model.named_parameters()})


def with_parameters(model: nn.Module, parameters: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of the model in main memory with these parameters, by name; tied ones stay one."""
    given = dict(model.named_parameters())
    known: dict[int, torch.Tensor] = {id(buffer): buffer.cpu() for buffer in model.buffers()}
    known |= {id(old): nn.Parameter(parameters[name], old.requires_grad) for name, old in given.items()}
    return copy.deepcopy(model, known)


def _random_model(model: DictConfig, tokenizer: PreTrainedTokenizerBase, precision: Precision, seed: int) -> nn.Module:
    if model.architecture is None:
        raise ModelError(f"model={model.name}: model.path is null and there is no architecture to draw from; set model.path")
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        **OmegaConf.to_container(model.architecture), vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **special
    )
    torch.manual_seed(seed)
    with _about_kernel(model.attn):
        return AutoModelForCausalLM.from_config(config, dtype=precision.weights, attn_implementation=_attention(model.attn))


def _pretrained(path: str, model: DictConfig, precision: Precision, quantise: bool) -> nn.Module:
    with _about_kernel(model.attn):
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
    try:
        check_expected(model.name, model.expects, path, found.config.to_dict())
    except ValueError as error:
        raise ModelError(str(error)) from error
    return found


def _nf4() -> BitsAndBytesConfig:
    compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _attention(choice: str) -> str | None:
    """auto: None, by which transformers takes sdpa where the architecture has it, else eager. Never flash attention, which shares
    no prompt among its answers and knows no float32."""
    return None if choice == "auto" else choice


@contextmanager
def _about_kernel(choice: str) -> Iterator[None]:
    """Within the block, an attention kernel that cannot be had is an error about model.attn."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if choice == "auto" or not re.search("attention|attn", str(error), re.IGNORECASE):
            raise
        raise ModelError(
            f"model.attn={choice}: this model cannot be loaded with it ({first_line(error)}); use model.attn=auto"
        ) from error


def _how_to_get(model: DictConfig) -> str:
    if str(model.path).startswith("models/smollm2"):
        return "make it with: bash scripts/get_smollm2.sh"
    return "set model.path=DIR to a local copy, or check the name, your network and access rights"
