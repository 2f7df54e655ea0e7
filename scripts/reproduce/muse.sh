#!/usr/bin/env bash
# MUSE on the shipped fixture with the tiny model: the target, the retrained model, eight ways to unlearn, six numbers for each.
#   bash scripts/reproduce/muse.sh            an invented newspaper (minutes)
#   bash scripts/reproduce/muse.sh books      an invented serial story
# Run again after an interruption: finished runs are skipped. What of the methods scales and what can be done again and again,
# and which checkpoint to take: scripts/muse_protocols.py.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

corpus=${1:-news}
runs=runs/muse_$corpus
common=(model=tiny benchmark=muse "benchmark.corpus=$corpus" checkpoint=none)
# Six times in a row, so that no text always stands at the same place of a piece: else it is known there and nowhere else.
six() { printf "$1+%.0s" 1 2 3 4 5; printf "$1"; }
memorise=(batch_size=2 lr=3e-3)
unlearn=(batch_size=3 epochs=4 lr=5e-4 scheduler=constant warmup=0 weight_decay=0)
reinforce=(batch_size=3 epochs=10 lr=5e-4 scheduler=cosine warmup=0 weight_decay=0)
evaluate=(model=tiny benchmark=muse "benchmark.corpus=$corpus" benchmark.max_new_tokens=24 benchmark.knowmem_max_new_tokens=8)
evaluate+=("oracle=$runs/retrained")

echo "1/4  Memorise: the target, and the retrained model that never saw the forget set"
python finetune.py "${common[@]}" "${memorise[@]}" split="$(six full)" epochs=6 out=$runs/target
python finetune.py "${common[@]}" "${memorise[@]}" split="$(six retain2)" epochs=10 out=$runs/retrained

echo "2/4  Unlearn"
python unlearn.py -m "${common[@]}" "${unlearn[@]}" method=ga,graddiff,kl,npo,npo_rt,npo_kl model.path=$runs/target "out=$runs/\${method.name}"
# What the task vector is made of is kept: Who's Harry Potter subtracts the same reinforced model, from logits instead of weights.
python unlearn.py "${common[@]}" "${reinforce[@]}" method=task_vector method.finish.keep_trained=true \
  model.path=$runs/target out=$runs/task_vector

echo "3/4  Evaluate"
models=$(echo retrained,target,ga,graddiff,kl,npo,npo_rt,npo_kl,task_vector | sed "s#[^,]*#$runs/&#g")
python evaluate.py -m "${evaluate[@]}" "model.path=$models" "out=\${model.path}/eval"
python evaluate.py "${evaluate[@]}" model.path=$runs/target reinforced.path=$runs/task_vector/trained reinforced.alpha=8 out=$runs/whp

echo "4/4  Report"
python scripts/report.py $runs --title "MUSE fixture ($corpus), tiny model"
cat $runs/table.md
