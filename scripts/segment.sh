#!/usr/bin/env bash
# Asks a running server about pictures, and writes what it finds: paligemma-segment without installing it.
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
# Where it is called stays the current folder: paths among the arguments count from there.
export PYTHONPATH=$root/client${PYTHONPATH:+:$PYTHONPATH}
exec "$root/.venv/bin/python" -m paligemma_client.command "$@"
