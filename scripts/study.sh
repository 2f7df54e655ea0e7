# Sourced by scripts/reproduce. `study NAME [KEY=VALUE ...]` makes the table of a study and prints it; the environment says what
# its file does not:
#   DATA_ROOT=DIR     where the data lie, or hub; the first word of the command line if it is no KEY=VALUE
#   SEEDS=0,1,2       of the unlearning
#   NPROC=4           processes, of a GPU each, of one run
#   LAUNCHER=joblib   who runs the cells (config/launch)
# Words of the command line go to the study: plan=true prints what would be run. The same command goes on after an interruption.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if [ $# -gt 0 ] && [[ "$1" != *=* ]]; then
  DATA_ROOT="$1"
  shift
fi
words=("$@")

study() {
  local name="$1" said=("${@:2}")
  [ -z "${DATA_ROOT:-}" ] || said+=("common.data_root=$DATA_ROOT")
  [ -z "${SEEDS:-}" ] || said+=("seeds=[$SEEDS]")
  [ -z "${NPROC:-}" ] || said+=("processes=$NPROC")
  [ -z "${LAUNCHER:-}" ] || said+=("launcher=$LAUNCHER")
  python scripts/study.py "$name" ${said[@]+"${said[@]}"} ${words[@]+"${words[@]}"}
  case " ${words[*]-} " in
    *=true\ *) ;;
    *) cat "runs/studies/$name/table.md" ;;
  esac
}

# MODEL, or what stands for it: tiny, with data of one's own the first of the models named here.
model_of() {
  local model="${MODEL:-$([ -z "${DATA_ROOT:-}" ] && echo tiny || echo "$1")}" known
  for known in tiny "$@"; do
    [ "$model" != "$known" ] || { echo "$model"; return; }
  done
  echo "MODEL=$model: choose one of tiny $*" >&2
  return 1
}
