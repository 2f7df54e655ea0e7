#!/usr/bin/env bash
# Zero-shot accuracy and WikiText perplexity of a checkpoint, through lm-evaluation-harness.
#   bash scripts/eval/utility.sh MODEL [KEY=VALUE ...]      MODEL: run folder, checkpoint folder or Hub name; data_root=hub, or DIR with DIR/piqa/... (data/files/utility.py)
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
python scripts/eval_checkpoint.py utility "$@"
