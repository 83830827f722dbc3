#!/usr/bin/env bash
# Lint, format and types; changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

prepare_environment triton gateway scripts dev
PATH=$venv/bin:$PATH

ruff check .
ruff format --check .
mypy
# Adapters and scripts are modules of one name or none, so they are checked one by one.
for file in model_repository/*/1/model.py scripts/*.py; do
  mypy --no-error-summary "$file"
done
shellcheck --external-sources scripts/*.sh .ci/run
