#!/usr/bin/env bash
# MEOW beside FLAT-KL and NPO at equal steps.
#   bash scripts/reproduce/meow.sh              the tiny model on the shipped fixture (minutes)
#   bash scripts/reproduce/meow.sh DATA_ROOT    SmolLM2-135M-Instruct on real TOFU forget01 (DATA_ROOT/tofu/*.json) with the released inverted facts
#                                     (DATA_ROOT/meow/generated_data/*.json); the target is that of scripts/reproduce/tofu_smollm2.sh
# Run again after an interruption: finished runs are skipped.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

if [ $# -eq 0 ]; then
  runs=runs/meow
  common=(model=tiny benchmark=tofu)
  forget=(split=forget10 epochs=20)
  target=full oracle=retain90 memorise=()
  memo=(method.prepare.memo.stride=10 +method.prepare.memo.max_new_tokens=20)
  evaluate=(benchmark.max_new_tokens=48)
else
  bash scripts/get_smollm2.sh
  runs=runs/smollm2
  common=(model=smollm2-135m benchmark=tofu benchmark.retain_rows=200 "data_root=$1")
  forget=(split=forget01 batch_size=8 lr=5e-5 epochs=5)
  target=retain99+forget01 oracle=retain99 memorise=(batch_size=8 lr=2e-4)
  memo=(method.prepare.memo.stride=10 +method.prepare.memo.max_new_tokens=50)
  evaluate=(benchmark.rows=40 benchmark.max_new_tokens=64)
fi

echo "1/4  Memorise: a target, and the retain oracle"
python finetune.py "${common[@]}" "${memorise[@]}" split=$target checkpoint=none out=$runs/target
python finetune.py "${common[@]}" "${memorise[@]}" split=$oracle checkpoint=none out=$runs/$oracle

echo "2/4  Unlearn with the same number of steps"
python unlearn.py "${common[@]}" "${forget[@]}" "${memo[@]}" method=meow model.path=$runs/target checkpoint=none out=$runs/meow
python unlearn.py -m "${common[@]}" "${forget[@]}" method=flat_kl,npo model.path=$runs/target checkpoint=none "out=$runs/\${method.name}"

echo "3/4  Evaluate"
python evaluate.py -m "${common[@]}" "${evaluate[@]}" "${forget[0]}" "model.path=$runs/$oracle,$runs/target,$runs/meow,$runs/flat_kl,$runs/npo" \
  oracle=$runs/$oracle "out=\${model.path}/eval"

echo "4/4  Report"
python scripts/report.py $runs --title "MEOW beside FLAT-KL and NPO"
cat $runs/table.md
