#!/usr/bin/env bash
# Sets up, lints, runs the tests. Arguments go to pytest: bash scripts/test.sh -m slow
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ruff check .
python -m pytest "$@"
