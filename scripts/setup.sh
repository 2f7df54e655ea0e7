# Sourced by the other scripts: goes to the project's root, makes sure that a virtual environment with the requirements is active,
# and sets what CPU training needs before Python starts. LETHE_REQUIREMENTS names another file than requirements.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
requirements="${LETHE_REQUIREMENTS:-requirements.txt}"

if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
    echo "Creating .venv"
    python3 -m venv .venv
  fi
  source .venv/bin/activate
fi

# Installed once per version of the file.
stamp="$(python -c 'import sys; print(sys.prefix)')/lethe-$(cat requirements.txt "$requirements" | sha256sum | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  echo "Installing $requirements (a few minutes)"
  python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' "$requirements")"
  python -m pip install --quiet --disable-pip-version-check -r "$requirements"
  touch "$stamp"
fi

export OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=67108864
