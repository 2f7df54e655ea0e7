#!/usr/bin/env bash
# Sets up, lints, holds the imports to their direction, runs the tests. Arguments go to pytest: bash scripts/test.sh -m slow
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ruff check .
ruff format --check --quiet .
lint-imports
python -m pytest "$@"
