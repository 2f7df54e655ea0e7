#!/usr/bin/env bash
# KnowUnDo, whole: memorise, locate, unlearn by MemFlex and the paper's seven baselines, evaluate.
#   bash scripts/reproduce/knowundo.sh              the tiny model on the shipped fixture
#   bash scripts/reproduce/knowundo.sh DATA_ROOT    SmolLM2-135M-Instruct with LoRA on the first 20 authors of DATA_ROOT/knowundo
#                                                   (hours); general texts: paragraphs of DATA_ROOT/wikitext/wiki.test.raw
#   MODEL=llama2-7b-chat bash scripts/reproduce/knowundo.sh DATA_ROOT    the paper's tables, or MODEL=qwen1.5-7b-chat
source "$(dirname "${BASH_SOURCE[0]}")/../study.sh"

model="$(model_of smollm2-135m llama2-7b-chat qwen1.5-7b-chat)"
case "$model" in
  tiny) study knowundo_tiny ;;
  smollm2-135m)
    bash scripts/get_smollm2.sh
    : "${DATA_ROOT:?give the folder that holds knowundo and wikitext}"
    study smollm2/knowundo "unlearn.benchmark.general_file=$DATA_ROOT/wikitext/wiki.test.raw" ;;
  llama2-7b-chat) study knowundo/table_2 && study knowundo/table_3 ;;
  qwen1.5-7b-chat) study knowundo/table_4 && study knowundo/table_6 ;;
esac
