#!/usr/bin/env bash
# The main job on the shipped fixture and the tiny model: memorise, unlearn six ways, evaluate, report. A few minutes on two CPU
# cores; run it again after an interruption and it goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

runs=runs/quickstart
methods=flat,flat_kl,ga,graddiff,npo,po

echo "1/4  Memorise: the target model, and the retain oracle that never saw the forget set"
python finetune.py -m model=tiny benchmark=tofu split=full,retain90 "out=$runs/\${split}"

echo "2/4  Unlearn"
python unlearn.py -m "method=$methods" model=tiny model.path=$runs/full benchmark=tofu split=forget10 "out=$runs/\${method.name}"

echo "3/4  Evaluate"
models="$runs/full,$runs/retain90,$(echo "$methods" | sed "s#[^,]*#$runs/&#g")"
python evaluate.py -m model=tiny "model.path=$models" benchmark=tofu split=forget10 oracle=$runs/retain90 "out=\${model.path}/eval"

echo "4/4  Report"
python scripts/report.py $runs --title "Quick start: TOFU fixture, tiny model"
cat $runs/table.md
