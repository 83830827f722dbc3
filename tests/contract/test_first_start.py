"""demo.sh on machines as people have them: what it looks at, fetches and says before anything is served."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from bare_host import BareHost
from stack import REPOSITORY

COMPOSE = "docker compose -f docker-compose.yml -f docker-compose.cpu.yml up --detach --wait"
FITTING = Path(sysconfig.get_config_var("BINDIR")) / "python3.11"
needs_fitting_python = pytest.mark.skipif(not FITTING.exists(), reason="this test lends its own Python 3.11")


@pytest.fixture
def host(tmp_path: Path) -> BareHost:
    return BareHost(tmp_path)


def says(system: str, machine: str) -> str:
    return f"case $1 in -s) echo {system} ;; -m) echo {machine} ;; *) exit 1 ;; esac"


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("MINGW64_NT-10.0-22631", "x86_64")]
)
def test_another_platform_is_told_what_runs_there(host: BareHost, system: str, machine: str) -> None:
    """In one line, before anything is installed."""
    host.command("uname", says(system, machine))
    run = host.demo()
    (line,) = run.stderr.splitlines()
    assert (run.returncode, run.stdout) == (1, "")
    assert line == (
        f"error: the local server is for Linux on x86-64, and this is {system} on {machine}; "
        f"containers run here: {COMPOSE}"
    )
    assert not (host.clone / ".venv").exists()
    assert COMPOSE in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize(
    ("ldd", "found"),
    [
        ('echo "ldd (Debian GLIBC 2.31-13+deb11u11) 2.31"', "2.31"),
        ('echo "ldd (GNU libc) 2.9"', "2.9"),
        ('echo "musl libc (x86_64)" >&2; echo "Version 1.2.5" >&2; exit 1', "musl"),
    ],
)
def test_an_old_or_another_c_library_is_told_what_runs_there(host: BareHost, ldd: str, found: str) -> None:
    host.command("ldd", ldd)
    run = host.demo()
    assert run.returncode == 1
    assert f"needs glibc 2.35 (Debian 12, Ubuntu 22.04 and newer), and this is {found}" in run.stderr
    assert COMPOSE in run.stderr


@pytest.mark.parametrize("ldd", ['echo "ldd (GNU libc) 2.35"', 'echo "ldd (GNU libc) 2.100"', "exit 127"])
def test_a_platform_that_fits_or_is_not_known_goes_on(host: BareHost, ldd: str) -> None:
    host.command("ldd", ldd)
    assert host.shell("require_platform").returncode == 0


def test_a_server_of_the_host_is_taken_as_it_is(host: BareHost) -> None:
    host.command("uname", says("Linux", "aarch64"))
    host.command("tritonserver", "exit 0")
    assert host.shell("require_platform").returncode == 0


def test_without_python_and_uv_it_says_what_to_install(host: BareHost) -> None:
    run = host.demo()
    assert run.returncode == 1
    assert "error: Python 3.11 with its shared library and venv was not found, and neither was uv" in run.stderr
    assert "Install uv (https://docs.astral.sh/uv)" in run.stderr
    assert not (host.clone / ".venv").exists()


def test_without_a_network_it_says_that_python_could_not_be_fetched(host: BareHost) -> None:
    host.command("uv", '[ "$1" = --version ] && exit 0; echo "error: failed to look up address" >&2; exit 2')
    run = host.demo()
    assert run.returncode == 1
    assert "failed to look up address" in run.stderr
    assert "error: uv could not fetch Python 3.11" in run.stderr
    assert "UV_PYTHON_INSTALL_MIRROR" in run.stderr


UV_WITH_PYTHON = f"""\
case "$*" in
  --version) exit 0 ;;
  "python install 3.11") ;;
  *) exit 64 ;;
esac
[ "$UV_PYTHON_INSTALL_BIN" = 0 ] # nothing outside of the clone
mkdir -p "$UV_PYTHON_INSTALL_DIR/cpython-3.11.18-linux-x86_64-gnu/bin"
printf '#!%s\\nexec {FITTING} "$@"\\n' "$BASH" >"$UV_PYTHON_INSTALL_DIR/cpython-3.11.18-linux-x86_64-gnu/bin/python3.11"
chmod +x "$UV_PYTHON_INSTALL_DIR/cpython-3.11.18-linux-x86_64-gnu/bin/python3.11"
"""


@needs_fitting_python
def test_uv_of_the_host_fetches_a_private_python_once(host: BareHost) -> None:
    host.command("uv", UV_WITH_PYTHON)
    private = host.clone / ".tools" / "python" / "cpython-3.11.18-linux-x86_64-gnu" / "bin" / "python3.11"
    run = host.shell("find_python")
    assert (run.returncode, run.stdout) == (0, f"{private}\n"), run.stderr
    host.command("uv", "exit 64")
    assert host.shell("find_python").stdout == f"{private}\n"


@needs_fitting_python
def test_pip_of_any_python_installs_uv(host: BareHost) -> None:
    """Into .tools, in the version that is pinned; an old pip reads no dependency groups."""
    (pin,) = [
        line.split('"')[1] for line in (host.clone / "pyproject.toml").read_text().splitlines() if '"uv==' in line
    ]
    BareHost.script(host.clone / "uv_with_python", UV_WITH_PYTHON)
    host.command(
        "python3",
        f"""\
case "$*" in
  "-m pip --version") ;;
  "-m pip install --quiet --disable-pip-version-check --upgrade --target $PWD/.tools/uv {pin}")
    mkdir -p .tools/uv/bin && mv uv_with_python .tools/uv/bin/uv ;;
  *) exit 64 ;;
esac""",
    )
    run = host.shell("find_python")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{host.clone}/.tools/python/")


def test_a_python_without_its_shared_library_is_not_taken(host: BareHost) -> None:
    host.command("uv", UV_WITH_PYTHON.replace(f"exec {FITTING}", "exit 1; :"))
    run = host.shell("find_python")
    assert run.returncode == 1
    assert "error: the Python 3.11 that uv fetched does not fit" in run.stderr


def test_a_private_python_is_no_help_for_a_server_of_the_host(host: BareHost) -> None:
    host.command("tritonserver", "exit 0")
    host.command("uv", "exit 64")
    run = host.shell("find_python")
    assert run.returncode == 1
    assert "apt-get install python3.11 python3.11-venv libpython3.11" in run.stderr


DOWNLOADING = "Downloading https://mirror.test/whl/torch-2.13.0-cp311-none-manylinux_2_28_x86_64.whl (850.3 MB)"
PIP = rf"""
printf '%s\n' "$*" >pip-options
printf '%s\n' 'Collecting torch==2.13.0' '  {DOWNLOADING}'
if [ -e silent ]; then read -r _ <silent; fi
echo 'Installing collected packages: mpmath, torch'
"""


def with_pip(host: BareHost, body: str) -> None:
    BareHost.script(host.clone / ".venv" / "bin" / "python", body)


def test_progress_in_lines(host: BareHost) -> None:
    with_pip(host, PIP)
    run = host.shell("progress_interval_s=0; install_quietly log --group triton")
    assert run.returncode == 0, run.stderr
    assert re.sub(r", \d+ s$", "", run.stdout, flags=re.MULTILINE).splitlines() == [
        "installing     Collecting torch==2.13.0",
        "installing     Downloading torch-2.13.0 (850.3 MB)",
        "installing     Installing collected packages",
    ]
    assert DOWNLOADING in (host.clone / "log").read_text()
    assert "--constraint constraints.txt --group triton" in (host.clone / "pip-options").read_text()


def test_time_goes_on_while_pip_is_silent(host: BareHost) -> None:
    """pip says nothing until a line with a time of a second or more has been printed."""
    with_pip(host, PIP)
    os.mkfifo(host.clone / "silent")
    answer = 'while read -r line; do case $line in *"MB), "[1-9]*" s") echo >&3 ;; esac; done'
    run = host.shell(f"progress_interval_s=1; exec 3<>silent; install_quietly log --group triton | {answer}")
    assert (run.returncode, run.stderr) == (0, "")


def test_a_quick_install_says_nothing(host: BareHost) -> None:
    with_pip(host, "echo 'Requirement already satisfied: torch'")
    run = host.shell("install_quietly log --group triton")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_progress_on_a_terminal_is_one_line_that_goes_away(host: BareHost) -> None:
    with_pip(host, PIP)
    sent = host.terminal("install_quietly log --group triton")
    shown = sent.split("\r\033[K")
    assert "installing     Installing collected packages, " in " ".join(shown)
    assert shown[-1] == ""
    assert "\n" not in sent
    assert max(map(len, shown)) < 80


def test_a_failure_shows_the_end_of_the_log(host: BareHost) -> None:
    with_pip(host, "for n in {1..40}; do echo \"line $n\"; done; echo 'ERROR: no such version' >&2; exit 1")
    run = host.shell("install_quietly log --group triton")
    assert run.returncode == 1
    assert "ERROR: no such version" in run.stderr
    assert "line 40" in run.stderr
    assert "line 20" not in run.stderr
    assert "the whole output is in log" in run.stderr
    assert "line 1\n" in (host.clone / "log").read_text()


def test_an_index_that_is_not_reached_is_named(host: BareHost) -> None:
    """Without a network, pip ends with "conflicting dependencies", which is not what is wrong."""
    warning = "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/pip/"
    with_pip(host, f'echo "{warning}"; echo "ERROR: ResolutionImpossible"; exit 1')
    run = host.shell("install_quietly log --group triton")
    assert run.returncode == 1
    assert "error: pip could not reach its package index: check the network, or set PIP_INDEX_URL" in run.stderr


def test_line_ends_are_those_of_linux_everywhere() -> None:
    """A script with a Windows line end does not start in a container."""
    files = subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).split("\n")[:-1]
    listed = subprocess.check_output(["git", "check-attr", "eol", "binary", "--", *files], cwd=REPOSITORY, text=True)
    attributes = {tuple(line.split(": ")[:2]): line.split(": ")[2] for line in listed.splitlines()}
    for file in files:
        binary = file.endswith((".png", ".npz", ".safetensors"))
        assert attributes[file, "binary"] == ("set" if binary else "unspecified"), file
        assert binary or attributes[file, "eol"] == "lf", file
