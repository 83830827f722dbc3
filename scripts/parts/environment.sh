# shellcheck shell=bash
# Sets up the environment of demo.sh, test.sh and check.sh, which source it from the repository's root.
#
#   prepare_environment GROUP...   .venv with these dependency groups of pyproject.toml
#   prepare_triton                 a tritonserver on PATH: the host's own, else one from a Python package in .triton
#
# Both do nothing if everything is in place already.

venv=$PWD/.venv
local_triton=$PWD/.triton
progress_interval_s=15
# shellcheck source=scripts/parts/host.sh
. scripts/parts/host.sh

# The stamp file records what is installed: a digest of the interpreter and all versions, then the groups, one per line.
# If the digest differs, the stamp is discarded and all groups are installed again.
prepare_environment() {
  local python stamp=$venv/installed-groups versions group missing=() options=()
  if ! [ -x "$venv/bin/python" ]; then
    python=$(find_python)
    "$python" -m venv "$venv" || fail "$python cannot make a virtual environment"
  fi
  versions=$(digest_of "$(base_python)" "$(listed_versions)" "$(cat constraints.txt)")
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

# Prints the interpreter that the environment was made with.
base_python() {
  "$venv/bin/python" -c 'import sys; print(sys._base_executable)'
}

# Prints the dependency groups of pyproject.toml, or one of them; changes of its other tables need no installation.
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

# Runs pip with all versions constrained. Its output goes into a log; the log's end is shown if pip fails.
install_quietly() { # LOG PIP_OPTION...
  local log=$1
  shift
  "$venv/bin/python" -m pip install --disable-pip-version-check --constraint constraints.txt "$@" 2>&1 |
    tee "$log" | show_progress || {
    tail -n 15 "$log" >&2
    if grep -q 'after connection broken by' "$log"; then
      fail "pip could not reach its package index: check the network, or set PIP_INDEX_URL to an index that is reached; the whole output is in $log"
    fi
    fail "pip could not install what pyproject.toml lists; the whole output is in $log"
  }
}

# Reads pip's output and shows the current step and its duration: on a terminal in one line that is updated, elsewhere
# in a new line every 15 seconds.
show_progress() {
  local began=$SECONDS said_at=$SECONDS doing=starting line status
  while true; do
    status=0
    IFS= read -r -t 1 line || status=$?
    if [ "$status" -eq 0 ]; then
      doing=$(pip_step "$line" "$doing")
    elif [ "$status" -le 128 ]; then # end of input; read's status is above 128 after a second without a line
      break
    fi
    if [ -t 1 ]; then
      printf '\r\033[K%-14s %s, %d s' installing "$doing" $((SECONDS - began))
    elif [ $((SECONDS - said_at)) -ge "$progress_interval_s" ]; then
      said_at=$SECONDS
      printf '%-14s %s, %d s\n' installing "$doing" $((SECONDS - began))
    fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
}

pip_step() { # LINE BEFORE: prints pip's step in at most 54 characters, or BEFORE if the line names no step
  local line=${1#"${1%%[![:space:]]*}"}
  case $line in
    Installing\ collected\ packages*) printf 'Installing collected packages' ;;
    Collecting\ * | Downloading\ * | Using\ cached\ * | Building\ * | Preparing\ *)
      line=${line%% (from *}
      line=${line/http*\//} # for an index other than PyPI, pip prints the whole URL
      line=${line/-[cp][py][0-9]*.whl/}
      printf '%s' "${line:0:54}"
      ;;
    *) printf '%s' "$2" ;;
  esac
}

# The stamp file records what the server's wrapper depends on: its own folder, the interpreter and the versions.
prepare_triton() {
  if ! command -v tritonserver >/dev/null; then
    local stamp=$local_triton/versions versions
    versions=$(digest_of "$local_triton" "$(base_python)" "$(stub_python_version)" "$(listed_versions local-triton)")
    if ! [ -x "$local_triton/bin/tritonserver" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$versions" ]; then
      unpack_triton
      printf '%s\n' "$versions" >"$stamp"
    fi
    PATH=$local_triton/bin:$PATH
  fi
  PATH=$venv/bin:$PATH
  export PATH
}

# Arranges the packaged server's files as in an installation. The wrapper puts this environment's libpython first on the
# library path: otherwise the stub would load the system's, which cannot import this environment's modules.
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
  libpython=$("$venv/bin/python" -c 'import sys, sysconfig
print(*dict.fromkeys([sys.base_prefix + "/lib", sysconfig.get_config_var("LIBDIR")]), sep=":")')
  cat >"$local_triton/bin/tritonserver.part" <<WRAPPER
#!/usr/bin/env bash
export LD_LIBRARY_PATH=$libpython:$wheel/nvidia_pytriton.libs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
exec $packaged/bin/tritonserver --backend-directory=$local_triton/backends "\$@"
WRAPPER
  chmod +x "$local_triton/bin/tritonserver.part"
  mv "$local_triton/bin/tritonserver.part" "$local_triton/bin/tritonserver"
}
