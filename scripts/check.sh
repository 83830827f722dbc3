#!/usr/bin/env bash
# Checks lint, format, types, schemas and the documentation site; changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/parts/environment.sh
. scripts/parts/environment.sh
# shellcheck source=scripts/parts/helm.sh
. scripts/parts/helm.sh

prepare_environment triton gateway scripts dev
prepare_helm
PATH=$venv/bin:$PATH

ruff check .
ruff format --check .
mypy
# Adapters (all named model.py) and scripts belong to no package, so mypy checks them one by one.
for file in model_repository/*/1/model.py scripts/*.py; do
  mypy --no-error-summary "$file"
done
python scripts/constraints.py --check
shellcheck --external-sources scripts/*.sh scripts/parts/*.sh .ci/run

schema() { check-jsonschema --quiet --builtin-schema "vendor.$1" "${@:2}"; }
yamllint --strict .
hadolint Dockerfile.*
schema compose-spec docker-compose.yml deploy/compose/*.yml
sed 's/!reset //' docker-compose.cpu.yml | schema compose-spec --default-filetype yaml - # the schema knows no tags
schema github-workflows .github/workflows/*.yml
zizmor --quiet --offline .github/workflows
schema dependabot .github/dependabot.yml
check-jsonschema --quiet --check-metaschema deploy/kubernetes/paligemma/values.schema.json
for values in deploy/kubernetes/paligemma/values*.yaml; do
  helm lint --strict --quiet --values "$values" deploy/kubernetes/paligemma
done
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
if command -v promtool >/dev/null; then
  promtool check config deploy/prometheus/prometheus.yml
  promtool test rules deploy/prometheus/rules.test.yml
else
  echo "promtool is not installed (Debian, Ubuntu: apt-get install prometheus): the alert rules are not checked"
fi
