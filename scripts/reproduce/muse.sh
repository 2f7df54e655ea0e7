#!/usr/bin/env bash
# MUSE: the target, the retrained model, eight ways to unlearn, four numbers for each.
#   bash scripts/reproduce/muse.sh                      the tiny model on an invented newspaper (minutes)
#   bash scripts/reproduce/muse.sh books                the tiny model on an invented serial story
#   MODEL=llama2-7b bash scripts/reproduce/muse.sh      MUSE-News as published, Table 3; with books MUSE-Books
# What of the methods scales and what can be done again and again: the studies muse/scalability_* and muse/sequence_*, and
# scripts/muse_protocols.py, which also chooses a checkpoint.
case "${1:-}" in news | books) CORPUS="$1" && shift ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/../study.sh"

model="$(model_of llama2-7b)"
case "$model" in
  tiny) study "tiny/muse_${CORPUS:-news}" ;;
  *) study "muse/table_3_${CORPUS:-news}" ;;
esac
