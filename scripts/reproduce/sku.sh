#!/usr/bin/env bash
# SKU whole: a model that knows harmful answers, then SKU, LLMU as published, gradient ascent and a plain task vector, judged and compared.
#   bash scripts/reproduce/sku.sh              the tiny model on the shipped fixture: the "harm" are answers about an invented substance (minutes)
#   bash scripts/reproduce/sku.sh DATA_ROOT    OPT-2.7B on PKU-SafeRLHF and TruthfulQA (DATA_ROOT/pku_saferlhf, DATA_ROOT/truthfulqa, or: hub)
#                                    with the published dials, on a GPU; judged by beaver-dam-7b
# Run again after an interruption: finished runs are skipped.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

if [ $# -eq 0 ]; then
  runs=runs/sku
  common=(model=tiny benchmark=safety)
  from=(model.path=$runs/target checkpoint=none warmup=0 batch_size=4)
  sku=(lr=3e-4 epochs=6)
  llmu=(lr=1e-4 epochs=3)
  ga=(lr=1e-4 epochs=3)
  evaluate=(benchmark.max_new_tokens=48 benchmark.perplexity_model=$runs/target/model)
else
  runs=runs/sku_opt
  common=(model=opt-2.7b benchmark=safety "data_root=$1")
  from=(warmup=0 batch_size=2 steps=1000)
  sku=(lr=2e-4 max_grad_norm=0)
  llmu=(lr=2e-6 max_grad_norm=0)
  ga=(lr=2e-6)
  evaluate=(benchmark.perplexity_model=facebook/opt-2.7b)
fi
# Both learn first and negate then, so they take the same rate and coefficient.
learn=("${common[@]}" "${from[@]}" "${sku[@]}" method.finish.coefficient=1.0)

echo "1/4  The model that knows"
if [ $# -eq 0 ]; then
  python finetune.py "${common[@]}" split=full checkpoint=none out=$runs/target
  original=$runs/target
else
  original=facebook/opt-2.7b
fi

echo "2/4  Unlearn"
for method in sku task_vector; do
  python unlearn.py "${learn[@]}" method=$method out=$runs/$method
done
python unlearn.py "${common[@]}" "${from[@]}" "${llmu[@]}" method=llmu_published out=$runs/llmu_published
python unlearn.py "${common[@]}" "${from[@]}" "${ga[@]}" method=ga out=$runs/ga

echo "3/4  Evaluate: the original first, its outputs are what the others' are compared with"
python evaluate.py "${common[@]}" "${evaluate[@]}" model.path=$original out=$runs/target/eval
python evaluate.py -m "${common[@]}" "${evaluate[@]}" "model.path=$runs/sku,$runs/task_vector,$runs/llmu_published,$runs/ga" \
  benchmark.base_run=$runs/target/eval "out=\${model.path}/eval"

echo "4/4  Report"
python scripts/report.py $runs --title "SKU: harmful answers"
cat $runs/table.md
