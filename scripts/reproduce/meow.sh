#!/usr/bin/env bash
# MEOW beside FLAT-KL and NPO at equal steps; at paper scale beside the baselines of its released trainer.
#   bash scripts/reproduce/meow.sh              the tiny model on the shipped fixture (minutes)
#   bash scripts/reproduce/meow.sh DATA_ROOT    SmolLM2-135M-Instruct on TOFU forget01 (DATA_ROOT/tofu/*.json) with the released
#                                               inverted facts (DATA_ROOT/meow/generated_data/*.json)
#   MODEL=llama2-7b-chat bash scripts/reproduce/meow.sh DATA_ROOT    TOFU 1, 5 and 10 %, NLU and NLG; MODEL=phi-1.5: TOFU alone
source "$(dirname "${BASH_SOURCE[0]}")/../study.sh"

model="$(model_of smollm2-135m llama2-7b-chat phi-1.5)"
case "$model" in
  tiny) study tiny/meow ;;
  smollm2-135m) bash scripts/get_smollm2.sh && study smollm2/meow ;;
  *) for split in forget01 forget05 forget10; do study "meow/${model}_$split"; done ;;
esac
[ "$model" != llama2-7b-chat ] || { study meow/nlu && study meow/nlg; }
