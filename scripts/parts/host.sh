# shellcheck shell=bash
# Checks the host's platform, and finds or downloads a Python for Triton; sourced by environment.sh.
#
#   require_platform   fails unless a local Triton server can run here; downloads nothing
#   find_python        prints a Python that fits the Triton server; installs a private one in .tools if there is none

tools=$PWD/.tools
host_stub=/opt/tritonserver/backends/python/triton_python_backend_stub
min_glibc=2.35 # of the packaged server
compose_command='docker compose -f docker-compose.yml -f docker-compose.cpu.yml up --detach --wait'

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# A server that is installed on the host is used as it is; the packaged one supports one platform.
require_platform() {
  local system machine glibc
  if command -v tritonserver >/dev/null; then return; fi
  system=$(uname -s) machine=$(uname -m)
  if [ "$system/$machine" != Linux/x86_64 ]; then
    fail "the local server is for Linux on x86-64, and this is $system on $machine; containers run here: $compose_command"
  fi
  glibc=$(glibc_version)
  if ! at_least "$glibc" "$min_glibc"; then
    fail "the local server needs glibc $min_glibc (Debian 12, Ubuntu 22.04 and newer), and this is $glibc; containers run here: $compose_command"
  fi
}

# Prints a version such as 2.36, `musl` for that library, or nothing if ldd does not tell.
glibc_version() {
  local said
  said=$( (ldd --version || true) 2>&1 | head -n 1)
  case $said in
    *[0-9].[0-9]*) printf '%s' "${said##* }" ;;
    *musl*) printf 'musl' ;;
  esac
}

at_least() { # VERSION MINIMUM: compares numerically; an unknown version passes
  case $1 in
    "") return 0 ;;
    [0-9]*.[0-9]*) [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ] ;;
    *) return 1 ;;
  esac
}

# Prints the Python version that the Triton server's stub is built for; the packaged server needs 3.11.
stub_python_version() {
  local linked=""
  if command -v tritonserver >/dev/null && [ -x "$host_stub" ]; then
    linked=$(ldd "$host_stub" 2>/dev/null | sed -nE 's/.*libpython(3\.[0-9]+)\.so.*/\1/p' | head -n 1)
  fi
  printf '%s' "${linked:-3.11}"
}

# Whether a Python has the version, can make environments, and has the shared library that Triton's stub loads.
python_fits() {
  "$1" - "$2" <<'PYTHON' 2>/dev/null
import ctypes, ensurepip, pathlib, sys, sysconfig, venv
assert "%d.%d" % sys.version_info[:2] == sys.argv[1]
name = "libpython%s.so.1.0" % sys.argv[1]
folders = [sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib"]
if not any(pathlib.Path(folder, name).exists() for folder in folders):
    ctypes.CDLL(name)
PYTHON
}

find_python() {
  local version candidate
  version=$(stub_python_version)
  while IFS= read -r candidate; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && python_fits "$candidate" "$version"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done < <(printf '%s\n' "${PYTHON:-}" && type -aP "python$version" python3 python)
  # The stub of a server on the host loads the host's libpython, which cannot import a private Python's modules.
  if command -v tritonserver >/dev/null; then
    fail "Python $version with its shared library and venv is needed and was not found.
  Debian, Ubuntu:   apt-get install python$version python$version-venv libpython$version
  or set PYTHON to one."
  fi
  find_private_python "$version" || install_private_python "$version"
}

find_private_python() { # VERSION
  local candidate
  for candidate in "$tools"/python/*/bin/python"$1"; do
    if [ -x "$candidate" ] && python_fits "$candidate" "$1"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

install_private_python() { # VERSION
  local uv
  uv=$(find_uv) || uv=$(install_uv) || fail "Python $1 with its shared library and venv was not found, and neither was uv, which fetches one.
  Install uv (https://docs.astral.sh/uv) and run this again; with python3-pip or the like this script installs uv itself.
  Or install Python:   apt-get install python$1 python$1-venv libpython$1   (Debian 12, Ubuntu 22.04)
                       dnf install python$1                             (Fedora)
  or set PYTHON to one."
  printf 'Python %s was not found: uv fetches one into .tools\n' "$1" >&2
  UV_PYTHON_INSTALL_DIR=$tools/python UV_PYTHON_INSTALL_BIN=0 "$uv" python install "$1" >&2 ||
    fail "uv could not fetch Python $1; what it says is above.
  Without a network, set UV_PYTHON_INSTALL_MIRROR to a mirror that is reached, or PYTHON to a Python $1 of this machine."
  find_private_python "$1" || fail "the Python $1 that uv fetched does not fit: venv or libpython$1.so.1.0 is missing; set PYTHON to one that has both"
}

find_uv() {
  local candidate
  for candidate in uv "$tools/uv/bin/uv"; do
    if "$candidate" --version >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Uses the pip of any Python. An old pip cannot read dependency groups, so the pin is read from pyproject.toml.
install_uv() {
  local python pin
  pin=$(sed -nE 's/^ *"(uv==[0-9.]+)".*/\1/p' pyproject.toml)
  for python in python3 python; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      printf 'uv was not found: pip installs it into .tools\n' >&2
      "$python" -m pip install --quiet --disable-pip-version-check --upgrade --target "$tools/uv" "$pin" >&2 && find_uv
      return
    fi
  done
  return 1
}
