#!/usr/bin/env bash
# Every benchmark on one checkpoint, one after the other, with the measures that fit each.
#   bash scripts/eval/all.sh                          a tiny model that memorised the invented authors, on the shipped fixtures (minutes)
#   bash scripts/eval/all.sh MODEL [KEY=VALUE ...]    as scripts/eval/tofu.sh and its kin; what compares with a retain oracle is left out
# Run again after an interruption: finished evaluations are skipped. One that fails is named at the end, and the others go on.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

if [ $# -eq 0 ]; then
  python finetune.py model=tiny benchmark=tofu split=full epochs=10 checkpoint=none out=runs/eval_all/target
  set -- runs/eval_all/target
fi

failed=()
evaluate() { # BENCHMARK MEASURES -- the command line's words
  python scripts/eval_checkpoint.py "$1" --measure "$2" "${@:4}" oracle=none || failed+=("$1")
}
evaluate tofu membership,memorization,fluency,gradnorm -- "$@"
evaluate knowundo memorization,fluency -- "$@"
evaluate muse membership,memorization,fluency -- "$@"
evaluate completion membership,memorization,fluency -- "$@"
evaluate safety fluency -- "$@"
evaluate nlu fluency -- "$@"
for benchmark in utility nlg; do
  python scripts/eval_checkpoint.py $benchmark "$@" oracle=none || failed+=("$benchmark")
done

[ ${#failed[@]} -eq 0 ] || { echo "not evaluated: ${failed[*]}" >&2; exit 1; }
