#!/usr/bin/env bash
# How a checkpoint continues passages of a book, beside a model that never saw them.
#   bash scripts/eval/completion.sh MODEL [KEY=VALUE ...]      MODEL: run folder, checkpoint folder or Hub name; benchmark.book=FILE; oracle=RETAINED, or none
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
python scripts/eval_checkpoint.py completion --measure membership,memorization,fluency "$@"
