"""The memory that a container's limits leave free."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_UNLIMITED_BYTES: Final = 1 << 60  # in version 1 a number of about 2^63 means no limit


@dataclass(frozen=True, slots=True)
class _Names:
    """The files of a group. The kernel can reclaim the memory that `reclaimable` counts."""

    controller: str
    folder: str
    limit: str
    usage: str
    reclaimable: tuple[str, ...]


# https://docs.kernel.org/admin-guide/cgroup-v2.html#memory and .../cgroup-v1/memory.html, section 5.2
_VERSIONS: Final = (
    _Names("", "", "memory.max", "memory.current", ("active_file", "inactive_file")),
    _Names(
        "memory",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


def free_bytes_of_container(root: Path = _ROOT, own: Path = _OWN) -> int | None:
    """Returns the bytes that this process' control groups (version 1 or 2) leave free; None without a limit.

    Args:
        root: where control groups are mounted.
        own: the file that lists this process' groups.
    """
    free = [
        free_bytes
        for names in _VERSIONS
        for folder in _folders(root / names.folder, _own_path(own, names.controller))
        if (free_bytes := _free_bytes(folder, names)) is not None
    ]
    return min(free, default=None)


def _own_path(own: Path, controller: str) -> str:
    """The group's path on the host; it may not exist inside a container."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return ""
    return next((path.strip("/") for _, controllers, path in lines if controller in controllers.split(",")), "")


def _folders(root: Path, path: str) -> Iterator[Path]:
    """A group's folder and its parents: each may have a limit."""
    folder = root / path
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _free_bytes(folder: Path, names: _Names) -> int | None:
    try:
        limit = (folder / names.limit).read_text().strip()
        if not limit.isdigit() or int(limit) >= _UNLIMITED_BYTES:
            return None
        usage = int((folder / names.usage).read_text())
        counters = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    reclaimable = sum(int(counters.get(name, 0)) for name in names.reclaimable)
    return max(int(limit) - usage + reclaimable, 0)
