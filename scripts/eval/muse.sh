#!/usr/bin/env bash
# MUSE's metrics of a checkpoint, with all membership attacks and memorisation.
#   bash scripts/eval/muse.sh MODEL [KEY=VALUE ...]      MODEL: run folder, checkpoint folder or Hub name; benchmark.corpus=books; oracle=RETRAINED, or none
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
python scripts/eval_checkpoint.py muse --measure membership,memorization,fluency "$@"
