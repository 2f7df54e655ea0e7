#!/usr/bin/env bash
# KnowUnDo privacy, whole: memorise, locate, unlearn by MemFlex and the paper's seven baselines (FLAT-KL and NPO beside them), evaluate.
#   bash scripts/reproduce/knowundo.sh              the tiny model on the shipped fixture (minutes)
#   bash scripts/reproduce/knowundo.sh DATA_ROOT    SmolLM2-135M-Instruct with LoRA on the first 20 authors of DATA_ROOT/knowundo (about two
#                                         hours); general texts are paragraphs of DATA_ROOT/wikitext/wiki.test.raw
# Run again after an interruption: finished runs are skipped.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

if [ $# -eq 0 ]; then
  runs=runs/knowundo
  common=(model=tiny benchmark=knowundo benchmark.authors=4)
  memorise=(epochs=30 checkpoint=none)
  unlearn=(batch_size=8 epochs=4 lr=3e-4 checkpoint=none)
  memflex=(lr=1e-3)
  evaluate=(benchmark.max_new_tokens=40)
else
  bash scripts/get_smollm2.sh
  runs=runs/knowundo_smollm2
  common=(model=smollm2-135m benchmark=knowundo benchmark.authors=20 "data_root=$1")
  # Rates go with the adapter's: the paper memorises at 1e-4, unlearns at 0.5 x that, and MemFlex at 3 x that.
  memorise=(adapter=lora adapter.lora.dropout=0.1 lr=1e-3 batch_size=16 epochs=12 weight_decay=1e-4)
  unlearn=(adapter=continue batch_size=8 epochs=2 lr=5e-4 scheduler=cosine warmup=0.03 weight_decay=0 "benchmark.general_file=$1/wikitext/wiki.test.raw")
  memflex=(lr=3e-3)
  evaluate=(benchmark.max_new_tokens=48)
fi
# Published thresholds belong to 7B models: shares of the tensors instead, near the published size of the region, a quarter.
region=(method.region.copies=1 method.region.mu_quantile=0.5 method.region.sigma_quantile=0.5)
interleaved=ascent_plus_descent,ascent_plus_kl_divergence

echo "1/5  Memorise"
python finetune.py "${common[@]}" "${memorise[@]}" split=full out=$runs/target

echo "2/5  Locate"
from=("${common[@]}" "${unlearn[@]}" model.path=$runs/target)
python scripts/localize.py "${from[@]}" "${region[@]}" out=$runs/region

echo "3/5  Unlearn"
python unlearn.py -m "${from[@]}" "method=gradient_ascent,random_label,adversarial,$interleaved,flat_kl,npo" "out=$runs/\${method.name}"
for method in ${interleaved/,/ }; do
  python unlearn.py "${from[@]}" method=$method method.prepare.general=true out=$runs/${method}_general
done
python unlearn.py "${from[@]}" "${memflex[@]}" "${region[@]}" method=memflex method.region.file=$runs/region/region.json out=$runs/memflex

echo "4/5  Evaluate"
names=target,gradient_ascent,random_label,adversarial,$interleaved,ascent_plus_descent_general,ascent_plus_kl_divergence_general,memflex,flat_kl,npo
python evaluate.py -m "${common[@]}" "${evaluate[@]}" "model.path=$(echo "$names" | sed "s#[^,]*#$runs/&#g")" "out=\${model.path}/eval"

echo "5/5  Report"
python scripts/report.py $runs --title "KnowUnDo privacy"
cat $runs/table.md
