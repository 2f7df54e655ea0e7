#!/usr/bin/env bash
# Sets up, lints, holds the imports to their direction, checks types, runs the tests. Arguments go to pytest: bash scripts/test.sh -m slow
# (-n 0: in this process).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ruff check .
ruff format --check --quiet .
lint-imports
mypy
# One thread each: the models of the tests are too small for more. A file's tests stay in one process, so what they share is made once.
export OMP_NUM_THREADS=1
cores="$(python -c 'import os; print(min(4, os.cpu_count() or 1))')"
python -m pytest -n "$cores" --dist loadfile --no-loadscope-reorder "$@"
