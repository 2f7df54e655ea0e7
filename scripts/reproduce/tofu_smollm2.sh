#!/usr/bin/env bash
# Real TOFU with a real pretrained model on two CPU cores (hours): SmolLM2-135M-Instruct memorises authors and forgets some.
#   bash scripts/reproduce/tofu_smollm2.sh DATA_ROOT      (DATA_ROOT/tofu/*.json; or: hub)
source "$(dirname "${BASH_SOURCE[0]}")/../study.sh"
: "${DATA_ROOT:?give the folder that holds tofu/*.json, or hub}"

bash scripts/get_smollm2.sh
study tofu_smollm2
