# Sourced by the other scripts: goes to the project's root, makes sure that a virtual environment with requirements.txt is active,
# and sets what CPU training needs before Python starts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
    echo "Creating .venv"
    python3 -m venv .venv
  fi
  source .venv/bin/activate
fi

# Installed once per version of requirements.txt.
stamp="$(python -c 'import sys; print(sys.prefix)')/lethe-$(sha256sum requirements.txt | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  echo "Installing requirements.txt (a few minutes)"
  python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' requirements.txt)"
  python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  touch "$stamp"
fi

export OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=67108864
