#!/usr/bin/env bash
# Completion of a book, as Harry Potter in FLAT: memorise passages, unlearn them, compare with a model that never read the book.
#   bash scripts/reproduce/completion.sh              the tiny model on the shipped story (minutes)
#   bash scripts/reproduce/completion.sh DATA_ROOT    SmolLM2-135M-Instruct on a novel, DATA_ROOT/completion/*.txt, with texts to
#                                                     keep, DATA_ROOT/completion/retain/*; common.benchmark.book=FILE and
#                                                     common.benchmark.retain=FILE name them wherever they lie
#   MODEL=llama2-7b bash scripts/reproduce/completion.sh DATA_ROOT    FLAT's Table 3, or MODEL=opt-2.7b
source "$(dirname "${BASH_SOURCE[0]}")/../study.sh"

model="$(model_of smollm2-135m llama2-7b opt-2.7b)"
case "$model" in
  tiny) study tiny/completion ;;
  smollm2-135m) bash scripts/get_smollm2.sh && study smollm2/completion ;;
  *) study "flat/book_$model" ;;
esac
