#!/usr/bin/env bash
# Sets everything up and runs every test; arguments go to pytest.
#
#   ./scripts/test.sh
#   ./scripts/test.sh tests/unit -k grammar
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/parts/environment.sh
. scripts/parts/environment.sh
# shellcheck source=scripts/parts/helm.sh
. scripts/parts/helm.sh

require_platform
prepare_environment triton gateway scripts dev
prepare_triton
prepare_helm
exec python -m pytest "$@"
