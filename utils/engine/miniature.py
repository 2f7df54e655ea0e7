"""A random copy of a model in miniature: its architecture with small widths, few layers and short windows, to try things on.

What an architecture does with masks, positions and padding shows in a copy of a few thousand numbers as in the model itself, and
sharper: large weights, float32, and windows so short that a few tokens are longer than they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

WINDOW = 16  # tokens that every window and chunk of the copy holds
POSITIONS = 48  # positions that the copy says it was made for
VOCABULARY = 64
HEADS, WIDTH = 4, 8  # attention heads, numbers in each
HIDDEN = HEADS * WIDTH
LAYERS = 4
MOST_PARAMETERS = 5_000_000

# Parts of a key that say that its number is a length in tokens, and among those, that it counts all positions of a text.
LENGTHS = ("window", "chunk", "position", "seq_len", "n_ctx", "context", "max_length", "span", "stride", "block_size")
POSITION_KEYS = ("position", "seq_len", "n_ctx", "context", "max_length")
COUNTS = ("layer", "pattern", "num_")  # even where a length is spoken of: so many layers have a window
# Parts of a key that say that its number is none.
OTHERS = tuple(
    """_dim dim_ _size size_ hidden width head layer expert rank vocab _id _ids n_ num d_ dff ffn inner scalar channel theta
    group factor beta version multiple bits seed epsilon rotary laurel mamba state conv token bottleneck""".split()
)
# Widths of the copy, by the names that configurations give them.
SMALL: dict[str, int] = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": HIDDEN,
    "word_embed_proj_dim": HIDDEN,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 2 * HIDDEN,
    "intermediate_size_mlp": 2 * HIDDEN,
    "ffn_dim": 2 * HIDDEN,
    "ffn_hidden_size": 2 * HIDDEN,
    "dff": 2 * HIDDEN,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "num_attention_heads": HEADS,
    "head_dim": WIDTH,
    "global_head_dim": WIDTH,
    "rotary_dim": WIDTH // 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": WIDTH,
    "qk_rope_head_dim": WIDTH,
    "v_head_dim": WIDTH,
    "qk_head_dim": 2 * WIDTH,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "top_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": WIDTH,
    "linear_value_head_dim": WIDTH,
    "kv_channels": WIDTH,
}
STARTS = {"initializer_range": 0.2, "init_std": 0.2}  # large weights: a wrong mask shows in the numbers
SHARED_HEADS = ("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads")


def pretrained_models(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The whole models in a model: itself, the one within adapters, the two of a combination."""
    if isinstance(model, PreTrainedModel):
        yield model
        return
    for child in model.children():
        yield from pretrained_models(child)


def windows(config: PretrainedConfig) -> list[int]:
    """Every number of tokens that may be a window or a chunk: known names, and what is not known to be anything else."""
    found = [value for key, value in _numbers(config.get_text_config().to_dict()) if _kind(key, value) == "window"]
    return sorted(set(found))


def positions(config: PretrainedConfig) -> list[int]:
    """Every number of tokens that the model says it was made for."""
    return sorted({value for key, value in _numbers(config.get_text_config().to_dict()) if _kind(key, value) == "positions"})


def miniature(model: PreTrainedModel) -> PreTrainedModel | None:
    """The copy, on the CPU, in float32 and eval mode; None if the architecture is too unusual to be made small.

    Its windows hold WINDOW tokens, it is made for POSITIONS. No random number of the run is used up.
    """
    for layers in (LAYERS, None):
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"), _float32():
                torch.manual_seed(0)
                config = _small(model.config, layers)
                if _parameters(type(model), config) <= MOST_PARAMETERS:
                    return type(model)(config).eval()
        except Exception:  # noqa: BLE001, S112  whatever an unknown architecture raises: it has no copy
            continue
    return None


def _parameters(kind: type[PreTrainedModel], config: PretrainedConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(config).parameters())


def _small(config: PretrainedConfig, layers: int | None) -> PretrainedConfig:
    kernel, text = config._attn_implementation, config.get_text_config().to_dict()
    if windows(config) and not text.get("layer_types"):
        layers = None  # which of them look through a window is not said: all are kept
    small = type(config).from_dict(_shrunk(config.to_dict(), config, layers))
    small._attn_implementation = kernel if kernel in ("sdpa", "eager") else "sdpa"
    return small


def _shrunk(values: dict[str, Any], config: PretrainedConfig, most: int | None) -> dict[str, Any]:
    """The configuration's dictionary with everything small, parts for other modalities included."""
    names = config.attribute_map
    heads = values.get(names.get("num_attention_heads", "num_attention_heads"))
    own = {names.get(key, key): value for key, value in SMALL.items()}
    for key in SHARED_HEADS:
        now = values.get(key)
        own[key] = now if now in (None, 1) else HEADS if now == heads else HEADS // 2
    depth_key = names.get("num_hidden_layers", "num_hidden_layers")
    depth = values.get(depth_key)
    kept = depth if most is None or not isinstance(depth, int) else _layers(values.get("layer_types"), depth, most)
    small: dict[str, Any] = {}
    for key, value in values.items():
        part = vars(config).get(key)
        if key == "quantization_config":
            continue
        if isinstance(part, PretrainedConfig):
            small[key] = _shrunk(value, part, most)
        elif key == depth_key:
            small[key] = kept
        elif key in own and isinstance(value, int | list):
            small[key] = own[key] if isinstance(value, int) else [own[key]] * (kept or len(value))
        elif key in STARTS:
            small[key] = STARTS[key]
        elif isinstance(value, list) and len(value) == depth and kept != depth:
            small[key] = value[:kept]
        else:
            small[key] = _short(key, value)
    return small


def _layers(types: list[str] | None, depth: int, most: int) -> int:
    """As few layers as hold one of each kind."""
    if not types:
        return min(depth, most)
    return max(min(depth, 2), max(types.index(kind) for kind in set(types)) + 1)


def _short(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {inner: _short(str(inner), held) for inner, held in value.items()}
    if isinstance(value, list) and key in ("short_factor", "long_factor"):
        return value[: WIDTH // 2]  # one for each pair of numbers that turn
    if isinstance(value, list):
        return [_short(key, held) for held in value]
    if isinstance(value, int) and not isinstance(value, bool) and key.endswith("token_id"):
        return 0
    return {"window": WINDOW, "positions": POSITIONS}.get(_kind(key, value), value)


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        else:
            yield from ((str(key), held) for held in (value if isinstance(value, list) else [value]))


def _kind(key: str, value: Any) -> str:
    """window | positions | other: what a whole number of a configuration is."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 1 or any(part in key for part in COUNTS):
        return "other"
    if any(part in key for part in POSITION_KEYS):
        return "positions"
    if any(part in key for part in LENGTHS):
        return "window"
    return "other" if value < 33 or any(part in key for part in OTHERS) else "window"


@contextmanager
def _float32() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
