#!/usr/bin/env bash
# SKU: a model that knows harmful answers, then SKU, LLMU as published, gradient ascent and a task vector, judged and compared.
#   bash scripts/reproduce/sku.sh              the tiny model on the shipped fixture, with answers about an invented substance
#   bash scripts/reproduce/sku.sh DATA_ROOT    OPT-2.7B on PKU-SafeRLHF and TruthfulQA (DATA_ROOT/pku_saferlhf and truthfulqa,
#                                              or: hub) with the published dials, on a GPU; judged by beaver-dam-7b
#   MODEL=llama2-7b bash scripts/reproduce/sku.sh hub    the paper's other models, or MODEL=llama2-13b
source "$(dirname "${BASH_SOURCE[0]}")/../study.sh"

model="$(model_of opt-2.7b llama2-7b llama2-13b)"
case "$model" in
  tiny) study tiny/sku ;;
  *) study "sku/$model" ;;
esac
