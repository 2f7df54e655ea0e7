#!/usr/bin/env bash
# Sets up, lints, holds the imports to their direction, checks types, runs the tests. Arguments go to pytest: bash scripts/test.sh -m slow
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ruff check .
ruff format --check --quiet .
lint-imports
mypy
python -m pytest "$@"
