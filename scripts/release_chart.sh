#!/usr/bin/env bash
# Packages the chart of a release, and renders its objects for those who have no Helm.
#
#   ./scripts/release_chart.sh ACCOUNT TRITON_DIGEST GATEWAY_DIGEST FOLDER
#
# The chart in FOLDER names the images by account and digest (sha256:...).
set -euo pipefail
account=$1 triton=$2 gateway=$3
mkdir -p "$4"
folder=$(cd "$4" && pwd)
cd "$(dirname "$0")/.."

staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
cp --recursive --dereference deploy/kubernetes/paligemma "$staged/"
chart=$staged/paligemma
sed -i -E "s|^(  account:) local\b|\1 $account|; s|^(  tritonDigest:) \"\"|\1 $triton|; s|^(  gatewayDigest:) \"\"|\1 $gateway|" \
  "$chart/values.yaml"

helm lint --strict --quiet "$chart"
helm package "$chart" --destination "$folder"
helm template paligemma "$chart" --set hfToken.secretName=hf-token >"$folder/kubernetes-gpu.yaml"
helm template paligemma "$chart" --values "$chart/values-cpu.yaml" >"$folder/kubernetes-cpu.yaml"
for image in "triton@$triton" "gateway@$gateway"; do
  if ! grep --quiet --fixed-strings "image: $account/paligemma-image-segmentation-$image" "$folder/kubernetes-gpu.yaml"; then
    echo "error: the rendered objects do not name $account's $image; values.yaml has changed its form" >&2
    exit 1
  fi
done
