"""Keeps the compiled decoder between starts: compiling it takes seconds of a core, reading it a tenth of that."""

import hashlib
import logging
import os
import platform
from pathlib import Path
from typing import Final

import jax

_CPU_FACTS: Final = ("model name", "flags", "Features")  # lines of /proc/cpuinfo that say what a processor can run
_PRIVATE: Final = 0o700  # what is in the folder is run

_log = logging.getLogger(__name__)


def keep_compiled(folder: Path) -> None:
    """Makes JAX keep what it compiles, in a subfolder for this kind of processor, for all of this process.

    Machines of several kinds may share the folder, and several processes may use it at once: an entry that is damaged
    is compiled anew. Where the subfolder cannot be written, or belongs to somebody else, nothing is kept.
    """
    own = folder / f"masks-{_processor()}"
    try:
        own.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        _log.info("compiled masks are not kept: %s", error)
        return
    if own.stat().st_uid != os.geteuid() or not os.access(own, os.W_OK):
        _log.info("compiled masks are not kept: %s cannot be written, or belongs to another user", own)
        return
    options = {
        "jax_compilation_cache_dir": str(own),
        "jax_persistent_cache_min_compile_time_secs": 0.0,  # each bucket takes less than JAX's own 1 s
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in options.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]


def _processor() -> str:
    """A name for processors that run the same code; JAX's own key of an entry does not tell them apart."""
    facts = {platform.machine()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        facts |= {line for line in lines if line.partition("\t")[0].strip() in _CPU_FACTS}
    return hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()[:16]
