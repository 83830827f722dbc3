#!/usr/bin/env bash
# Segments pictures with a running server and writes the results: paligemma-segment without an installation.
#
#   ./scripts/segment.sh docs/sample.png --prompt "blue star" --prompt "cyan ring"
#   ./scripts/segment.sh --help
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
(
  cd "$root"
  # shellcheck source=scripts/parts/environment.sh
  . scripts/parts/environment.sh
  prepare_environment gateway scripts
)
# The current folder stays the caller's, so that relative paths among the arguments work.
export PYTHONPATH=$root/client${PYTHONPATH:+:$PYTHONPATH}
exec "$root/.venv/bin/python" -m paligemma_client.command "$@"
