"""The number of cores that this process can use."""

import math
import os
from pathlib import Path
from typing import Final

_TOPOLOGY: Final = Path("/sys/devices/system/cpu")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = _CGROUPS) -> int:
    """Logical cores that this process may run on, within its container's limit on CPU time."""
    return _within_quota(len(os.sched_getaffinity(0)), cgroups)


def physical_cores(topology: Path = _TOPOLOGY, cgroups: Path = _CGROUPS) -> int:
    """Physical cores among them: the two threads of a core share the units that multiply matrices."""
    allowed = os.sched_getaffinity(0)
    return _within_quota(len({_siblings(topology / f"cpu{number}", number) for number in allowed}), cgroups)


def _siblings(folder: Path, number: int) -> str:
    try:
        return (folder / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:  # some containers hide it
        return str(number)


def _within_quota(cores: int, cgroups: Path) -> int:
    """Limits threads to the quota: more threads use up a period's time sooner, and then all of them stop."""
    quota = _quota(cgroups)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """CPU seconds per second from control groups (version 2 or 1); None without a limit."""
    try:
        if (cgroups / "cpu.max").is_file():
            quota, period = (cgroups / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None
