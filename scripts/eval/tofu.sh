#!/usr/bin/env bash
# TOFU's metrics of a checkpoint, with membership attacks, memorisation and fluency.
#   bash scripts/eval/tofu.sh MODEL [KEY=VALUE ...]      MODEL: run folder, checkpoint folder or Hub name; oracle=runs/retain90, or none
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
python scripts/eval_checkpoint.py tofu --measure membership,memorization,fluency "$@"
