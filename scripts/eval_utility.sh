#!/usr/bin/env bash
# Zero-shot accuracy and WikiText perplexity of a checkpoint, through lm-evaluation-harness.
#   bash scripts/eval_utility.sh MODEL [KEY=VALUE ...]      MODEL: run folder, checkpoint folder or Hub name; data_root=hub, or DIR with DIR/piqa/... (data/utility_files.py)
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
python scripts/eval_checkpoint.py utility "$@"
