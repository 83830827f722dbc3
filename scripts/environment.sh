# shellcheck shell=bash
# What demo.sh, test.sh and check.sh set up; sourced by them, from the repository's root.
#
#   prepare_environment GROUP...   .venv with these dependency groups of pyproject.toml
#   prepare_triton                 a tritonserver on PATH: the host's own, else one from a Python package in .triton
#
# Both do nothing where everything is in place already. Functions called `say` and `fail` may be defined by the caller.

venv=$PWD/.venv
local_triton=$PWD/.triton
host_stub=/opt/tritonserver/backends/python/triton_python_backend_stub

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The Python that the Triton server's stub is built for; a local server needs 3.11.
stub_python_version() {
  local linked=""
  if command -v tritonserver >/dev/null && [ -x "$host_stub" ]; then
    linked=$(ldd "$host_stub" 2>/dev/null | sed -nE 's/.*libpython(3\.[0-9]+)\.so.*/\1/p' | head -n 1)
  fi
  printf '%s' "${linked:-3.11}"
}

# Whether a Python is of a version, can make environments, and has the shared library that Triton's stub loads.
python_fits() {
  "$1" - "$2" <<'PYTHON' 2>/dev/null
import ctypes, ensurepip, pathlib, sys, sysconfig, venv
assert "%d.%d" % sys.version_info[:2] == sys.argv[1]
name = "libpython%s.so.1.0" % sys.argv[1]
folder = pathlib.Path(sysconfig.get_config_var("LIBDIR"))
if not (folder / name).exists():
    ctypes.CDLL(name)
PYTHON
}

find_python() {
  local version candidate
  version=$(stub_python_version)
  for candidate in "${PYTHON:-}" "python$version" python3 python /usr/bin/python"$version"; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && python_fits "$candidate" "$version"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "Python $version with its shared library and venv is needed and was not found.
  Debian, Ubuntu:   apt-get install python$version python$version-venv libpython$version
  anywhere:         uv python install $version
  or set PYTHON to one."
}

# The stamp says what is installed: a digest of the interpreter and all versions, then the groups, one a line. Where the
# digest is another one, by newer or by older versions, nothing that the stamp lists counts.
prepare_environment() {
  local python stamp=$venv/installed-groups versions group missing=() options=()
  if ! [ -x "$venv/bin/python" ]; then
    python=$(find_python)
    "$python" -m venv "$venv" || fail "$python cannot make a virtual environment"
  fi
  python=$("$venv/bin/python" -c 'import sys; print(sys._base_executable)')
  versions=$(digest_of "$python" "$(listed_versions)")
  if [ "$(head -n 1 "$stamp" 2>/dev/null)" != "$versions" ]; then rm -f "$stamp"; fi
  for group in "$@"; do
    options+=(--group "$group")
    grep -qxF "$group" "$stamp" 2>/dev/null || missing+=("$group")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  install_quietly "$venv/install.log" 'pip>=25.1'
  install_quietly "$venv/install.log" "${options[@]}"
  [ -f "$stamp" ] || printf '%s\n' "$versions" >"$stamp"
  printf '%s\n' "${missing[@]}" >>"$stamp"
}

# The dependency groups of pyproject.toml, or one of them: its other tables may change without an installation.
listed_versions() { # [GROUP]
  "$venv/bin/python" - "$@" <<'PYTHON'
import sys, tomllib
groups = tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]
print(groups[sys.argv[1]] if sys.argv[1:] else groups)
PYTHON
}

digest_of() {
  printf '%s\n' "$@" | sha256sum | cut -d ' ' -f 1
}

install_quietly() {
  local log=$1
  shift
  "$venv/bin/python" -m pip install --disable-pip-version-check "$@" >"$log" 2>&1 || {
    tail -n 15 "$log" >&2
    fail "pip could not install what pyproject.toml lists; the whole output is in $log"
  }
}

prepare_triton() {
  if ! command -v tritonserver >/dev/null; then
    local stamp=$local_triton/versions versions
    versions=$(digest_of "$(stub_python_version)" "$(listed_versions local-triton)")
    if ! [ -x "$local_triton/bin/tritonserver" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$versions" ]; then
      unpack_triton
      printf '%s\n' "$versions" >"$stamp"
    fi
    PATH=$local_triton/bin:$PATH
  fi
  PATH=$venv/bin:$PATH
  export PATH
}

# Lays the packaged server out as an installation has it. The wrapper puts this environment's own libpython first:
# the stub would load the system's otherwise, which cannot import this environment's modules.
unpack_triton() {
  local wheel=$local_triton/wheel libpython version
  version=$(stub_python_version)
  rm -rf "$local_triton"
  install_quietly "$venv/install.log" --no-deps --target "$wheel" --group local-triton
  local packaged=$wheel/pytriton/tritonserver
  mkdir -p "$local_triton/bin" "$local_triton/backends"
  mv "$packaged/backends/python" "$local_triton/backends/python"
  mv "$packaged/python_backend_stubs/$version/triton_python_backend_stub" "$local_triton/backends/python/"
  chmod +x "$packaged/bin/tritonserver" "$local_triton/backends/python/triton_python_backend_stub"
  libpython=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
  cat >"$local_triton/bin/tritonserver.part" <<WRAPPER
#!/usr/bin/env bash
export LD_LIBRARY_PATH=$libpython:$wheel/nvidia_pytriton.libs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
exec $packaged/bin/tritonserver --backend-directory=$local_triton/backends "\$@"
WRAPPER
  chmod +x "$local_triton/bin/tritonserver.part"
  mv "$local_triton/bin/tritonserver.part" "$local_triton/bin/tritonserver"
}
