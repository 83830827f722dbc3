#!/usr/bin/env bash
# Sets everything up, starts Triton and the gateway with the demo model, segments a sample, and serves until Ctrl-C.
#
#   ./scripts/demo.sh           serve until Ctrl-C
#   ./scripts/demo.sh --once    end after the sample, leaving nothing running
#   REPLICAS=3 ./scripts/demo.sh   with three Tritons
#
# docs/reference/settings.md says which variables change ports and models.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/parts/environment.sh
. scripts/parts/environment.sh

phase() { # NAME COMMAND...: runs a command and says how long it took
  local name=$1 started=$EPOCHREALTIME
  shift
  "$@"
  awk -v name="$name" -v from="$started" -v to="$EPOCHREALTIME" \
    'BEGIN { printf "%-14s ready in %6.1f s\n", name, to - from }'
}

require_platform
phase environment prepare_environment triton gateway scripts
phase tritonserver prepare_triton
PYTHONPATH=scripts exec python -m parts.demo "$@"
