"""Tiny random models of every architecture that is asked about: 32 wide, windows of 24 tokens, 512 positions."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

VOCABULARY = 101
WINDOW = 24

# What most of them have in common; each takes what its configuration knows, by that name or another.
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    # Ten times the usual: a wrong mask shows in the numbers.
    "initializer_range": 0.2,
    "init_std": 0.2,
    "sliding_window": WINDOW,
}
TOKENS = {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MANY = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
BOTH = {"sliding_attention": PLAIN, "full_attention": {**PLAIN, "rope_theta": 1e6}}
HALF = {"layer_types": ["sliding_attention", "full_attention"]}

# What must agree with the model's own forward: asked for by name.
PROMISED: dict[str, dict] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {},
    "gemma2": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"num_hidden_layers": 6, "rope_parameters": BOTH},
    "phi": {},
    "phi3": {},
    "olmo2": {},
    "olmo3": {**HALF, "rope_parameters": BOTH},
    "gpt_neox": {},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64},
    "gpt2": {},
    "gptj": {"rotary_dim": 4},
    "stablelm": {},
    "gpt_oss": EXPERTS,
    "mixtral": {**EXPERTS},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
}
OTHERS: dict[str, dict] = {
    "gemma": {},
    "gemma3n_text": {
        "num_hidden_layers": 5,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0] * 5,
        "rope_parameters": BOTH,
    },
    "gemma3": {},
    "olmo": {},
    "cohere2": {"num_hidden_layers": 4},
    "granitemoe": {**EXPERTS},
    "bloom": {},
    "mpt": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "codegen": {"rotary_dim": 4},
    "xglm": {"ffn_dim": 64},
    "falcon": {},
    "falcon-alibi": {"alibi": True},
    "gpt_bigcode": {},
    "starcoder2": {},
    "llama4_text": {
        **EXPERTS,
        "attention_chunk_size": WINDOW,
        "intermediate_size_mlp": 64,
        "num_experts_per_tok": 1,
        "layer_types": ["chunked_attention", "full_attention"],
    },
    "exaone4": {**HALF},
    "qwen2_moe": {**MANY, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1},
    "qwen3_moe": {**MANY},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "smollm3": {},
    "ernie4_5": {},
    "glm": {},
    "glm4": {},
    "helium": {},
    "nemotron": {},
    "persimmon": {},
    "phimoe": {**EXPERTS},
    "deepseek_v2": {**LATENT, "n_routed_experts": 4, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1}
    | {"num_experts_per_tok": 2},
    "deepseek_v3": {**LATENT, "n_routed_experts": 4, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1}
    | {"topk_group": 1, "num_experts_per_tok": 2},
    "apertus": {},
    "arcee": {},
    "seed_oss": {},
    "nanochat": {},
    "biogpt": {},
    "ctrl": {"dff": 64},
    "minicpm3": LATENT,
    "bitnet": {},
    "diffllama": {},
    "jetmoe": {"kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral": {},
    "vaultgemma": {},
    "hunyuan_v1_dense": {},
    "doge": {},
    "openai-gpt": {},
    "gpt_neox_japanese": {},
    "llama-dynamic": {"max_position_embeddings": 48, "rope_parameters": {**PLAIN, "rope_type": "dynamic", "factor": 2.0}},
    "phi3-longrope": {
        "max_position_embeddings": 96,
        "original_max_position_embeddings": 48,
        "sliding_window": None,
        "rope_parameters": {**PLAIN, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
        | {"original_max_position_embeddings": 48},
    },
    "mamba": {},
    "falcon_mamba": {},
    "rwkv": {"attention_hidden_size": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "jamba": {"num_experts": 2, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False, "attn_layer_period": 2}
    | {"attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "qwen3_next": {
        **MANY,
        "shared_expert_intermediate_size": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": WINDOW, **EXPERTS},
    "recurrent_gemma": {"attention_window_size": WINDOW, "lru_width": 32, "num_hidden_layers": 3},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16},
}
EVERY = {**PROMISED, **OTHERS}
# One of each kind: full attention, a window in all layers or in some, soft caps, sinks, positions that are learnt, ALiBi.
FEW = ("llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "gpt2", "cohere", "mpt")


def tiny_config(name: str, **settings) -> PretrainedConfig:
    family = name.split("-")[0] if name != "openai-gpt" else name
    if family == "gemma3":  # text and pictures
        text = tiny_config("gemma3_text").to_dict()
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
        return AutoConfig.for_model(family, text_config=text, vision_config={**vision, "patch_size": 14}, **TOKENS)
    default = AutoConfig.for_model(family)
    known = {*default.to_dict(), *default.attribute_map}
    return AutoConfig.for_model(
        family, **{**{k: v for k, v in COMMON.items() if k in known}, **TOKENS, **EVERY[name], **settings}
    )


def tiny(name: str, attention: str | None = None, **settings) -> nn.Module:
    """A random model in float32 and eval mode. Raises ValueError for a kernel that the architecture does not have."""
    torch.manual_seed(0)
    config = tiny_config(name, **settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
