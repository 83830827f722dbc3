#!/usr/bin/env bash
# Builds the images and tests them with Docker, as an operator runs them; arguments go to pytest.
#
#   ./scripts/container_test.sh
#   ./scripts/container_test.sh -k killed
#   BUILD=off ./scripts/container_test.sh        with existing images
#
# Needs Docker with Compose 2.24 or newer, and no GPU: it runs the demo model. Takes about fifteen minutes after the build.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/parts/environment.sh
. scripts/parts/environment.sh

prepare_environment triton gateway scripts dev
PATH=$venv/bin:$PATH
if [ "${BUILD:-on}" = on ]; then
  docker compose --file docker-compose.yml --file docker-compose.cpu.yml build
fi
exec python -m pytest --capture no "$@" tests/containers
