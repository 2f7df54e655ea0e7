#!/usr/bin/env bash
# KnowUnDo's metrics of a checkpoint, with and without the safety prompt, with memorisation and fluency.
#   bash scripts/eval/knowundo.sh MODEL [KEY=VALUE ...]      MODEL: run folder, checkpoint folder or Hub name; benchmark.domain=copyright for books
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
python scripts/eval_checkpoint.py knowundo --measure memorization,fluency "$@"
