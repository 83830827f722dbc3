"""A mirror for `uv python install` that has this machine's own Python, in the layout of python-build-standalone."""

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Final

PUBLISHED: Final = "https://github.com/astral-sh/python-build-standalone/releases/download"
RELEASE: Final = "20240107"
LIST: Final = "downloads.json"
LEFT_OUT: Final = re.compile(r"/(site-packages|test|config-[^/]+|__pycache__)(/|$)")
BASE_LIBRARIES: Final = re.compile(r"(ld-linux|lib(c|m|dl|pthread|rt|util)\.so)")
NAME: Final = f"cpython-{'.'.join(map(str, sys.version_info[:3]))}"


class PythonMirror:
    """A folder for UV_PYTHON_INSTALL_MIRROR, with the list of what it has for UV_PYTHON_DOWNLOADS_JSON_URL.

    Attributes:
        installed_as: the folder that uv makes of it, in its installation folder.
    """

    installed_as = f"{NAME}-linux-x86_64-gnu"

    def __init__(self, folder: Path) -> None:
        archive = f"{NAME}+{RELEASE}-x86_64-unknown-linux-gnu-install_only.tar.gz"
        (folder / RELEASE).mkdir(parents=True)
        with tarfile.open(folder / RELEASE / archive, "w:gz", compresslevel=1) as tar:
            self._add_all(tar)
        listed: dict[str, object] = dict(zip(("major", "minor", "patch"), sys.version_info[:3], strict=True))
        listed |= {"name": "cpython", "os": "linux", "arch": {"family": "x86_64", "variant": None}, "libc": "gnu"}
        listed |= {"prerelease": "", "variant": None, "sha256": None, "build": RELEASE}
        listed["url"] = f"{PUBLISHED}/{RELEASE}/{archive.replace('+', '%2B')}"
        (folder / LIST).write_text(json.dumps({self.installed_as: listed}))

    def _add_all(self, tar: tarfile.TarFile) -> None:
        prefix = Path(sys.base_prefix)
        tar.add(prefix / "bin" / "python3.11", "python/bin/python3.11")
        tar.add(prefix / "lib" / "python3.11", "python/lib/python3.11", filter=_unless_left_out)
        library = "libpython3.11.so.1.0"
        tar.add(Path(sysconfig.get_config_var("LIBDIR")) / library, f"python/lib/{library}")
        for path in _libraries(prefix):
            tar.add(path.resolve(), f"python/lib/{path.name}")


def _unless_left_out(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if LEFT_OUT.search(f"/{entry.name}") else entry


def _libraries(prefix: Path) -> list[Path]:
    """The system's libraries that the standard library's modules load; the published archives have them built in."""
    modules = [str(path) for path in (prefix / "lib" / "python3.11" / "lib-dynload").glob("*.so")]
    linked = subprocess.check_output(["ldd", *modules], text=True)
    paths = {Path(path) for path in re.findall(r"=> (/\S+)", linked)}
    return sorted(path for path in paths if not BASE_LIBRARIES.match(path.name))
