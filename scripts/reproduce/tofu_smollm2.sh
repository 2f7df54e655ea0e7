#!/usr/bin/env bash
# Real TOFU with a real pretrained model on two CPU cores (about two hours): SmolLM2-135M-Instruct memorises 12 authors, then
# forgets the last 2 of them (forget01) by seven methods with the same number of steps.
#   bash scripts/reproduce/tofu_smollm2.sh DATA_ROOT      (DATA_ROOT/tofu/*.json; or: hub)
# Run again after an interruption: finished runs are skipped.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
data_root="${1:?give the folder that holds tofu/*.json, or hub}"

runs=runs/smollm2
methods=flat,flat_kl,ga,graddiff,npo,npo_rt,po
common=(model=smollm2-135m benchmark=tofu benchmark.retain_rows=200 "data_root=$data_root" batch_size=8 checkpoint=none)

bash scripts/get_smollm2.sh

echo "1/4  Memorise: 10 retain authors + 2 forget authors; the retain oracle sees the 10 only"
python finetune.py "${common[@]}" split=retain99+forget01 lr=2e-4 out=$runs/target
python finetune.py "${common[@]}" split=retain99 lr=2e-4 out=$runs/retain99

echo "2/4  Unlearn: 5 epochs of 40 rows, 25 steps each"
python unlearn.py -m "${common[@]}" "method=$methods" model.path=$runs/target split=forget01 lr=5e-5 epochs=5 "out=$runs/\${method.name}"

echo "3/4  Evaluate: up to 40 questions of each task"
models="$runs/target,$runs/retain99,$(echo "$methods" | sed "s#[^,]*#$runs/&#g")"
python evaluate.py -m model=smollm2-135m "model.path=$models" benchmark=tofu benchmark.retain_rows=200 benchmark.rows=40 \
  benchmark.max_new_tokens=64 "data_root=$data_root" split=forget01 oracle=$runs/retain99 "out=\${model.path}/eval"

echo "4/4  Report"
python scripts/report.py $runs --title "TOFU forget01, 12 authors, SmolLM2-135M-Instruct"
cat $runs/table.md
