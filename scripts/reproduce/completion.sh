#!/usr/bin/env bash
# Completion of a book, as Harry Potter in FLAT: memorise passages, unlearn them by FLAT-KL, GA and NPO, and compare with a model that
# never read the book.
#   bash scripts/reproduce/completion.sh                      the tiny model on the shipped story (about two minutes)
#   bash scripts/reproduce/completion.sh DATA_ROOT [DIAL...]  SmolLM2-135M-Instruct on a novel, DATA_ROOT/completion/*.txt, with texts to keep,
#                                                   DATA_ROOT/completion/retain/*; benchmark.book=FILE benchmark.retain=FILE name
#                                                   them wherever they lie
# Run again after an interruption: finished runs are skipped.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

if [ $# -eq 0 ]; then
  runs=runs/completion
  common=(model=tiny benchmark=completion benchmark.words=40 benchmark.prefix=20 benchmark.passages=16 benchmark.retain_passages=16)
  memorise=(batch_size=8 epochs=40)
  forget=(epochs=8 batch_size=8 refusals=data/fixtures/completion/known/refusals.txt)
  evaluate=(benchmark.max_new_tokens=32 generation_batch_size=64)
else
  bash scripts/get_smollm2.sh
  runs=runs/completion_smollm2
  common=(model=smollm2-135m benchmark=completion "data_root=$1")
  common+=(benchmark.words=200 benchmark.prefix=100 benchmark.passages=24 benchmark.retain_passages=24 "${@:2}")
  memorise=(batch_size=8 lr=2e-4 epochs=10)  # ten epochs as in FLAT's released code, at a rate for a small model
  forget=(batch_size=8 lr=5e-5 epochs=5)
  evaluate=(benchmark.max_new_tokens=150)
fi
methods=flat_kl,ga,npo

echo "1/4  Memorise: the target, and the retained model that never read the book"
python finetune.py -m "${common[@]}" "${memorise[@]}" split=full,retain checkpoint=none "out=$runs/\${split}"

echo "2/4  Unlearn with the same number of steps; a refusal per passage is drawn once, as in FLAT"
from=("${common[@]}" "${forget[@]}" model.path=$runs/full checkpoint=none "out=$runs/\${method.name}")
python unlearn.py "${from[@]}" method=flat_kl method.templates.policy=fixed
python unlearn.py -m "${from[@]}" method=ga,npo

echo "3/4  Evaluate"
models="$runs/retain,$runs/full,$(echo "$methods" | sed "s#[^,]*#$runs/&#g")"
python evaluate.py -m "${common[@]}" "${evaluate[@]}" "model.path=$models" oracle=$runs/retain "out=\${model.path}/eval"

echo "4/4  Report"
python scripts/report.py $runs --title "Completion of a book"
cat $runs/table.md
