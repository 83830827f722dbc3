"""Fetches the published weights of the mask VQ-VAE, once, and checks them."""

import fcntl
import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, Final

from mask_vae.config import DEFAULT_CHECKPOINT, DEFAULT_HUB, MaskVaeConfig
from mask_vae.errors import CheckpointError

_log = logging.getLogger(__name__)

OnProgress = Callable[[int], None]

_CANONICAL: Final = "https://storage.googleapis.com/big_vision/paligemma/vae-oid.npz"  # big_vision's own
_SPACES: Final = ("big-vision/paligemma", "big-vision/paligemma-hf", "google/paligemma-hf")  # copies on the hub

_PARTIAL_SUFFIX: Final = ".part"
_TIMEOUT_S: Final = 20.0  # longest wait for data
_ATTEMPTS: Final = 3  # of each address
_PAUSE_S: Final = 1.0
_CHUNK_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Published:
    """A file that others publish.

    Attributes:
        urls: where it lies, tried in turn.
        size: bytes.
        sha256: hexadecimal.
    """

    urls: tuple[str, ...]
    size: int
    sha256: str


def published_weights(hub: str = DEFAULT_HUB) -> Published:
    """big_vision's `vae-oid.npz`; size and digest are those of the copies' LFS pointers."""
    copies = (f"{hub}/spaces/{space}/resolve/main/{DEFAULT_CHECKPOINT}" for space in _SPACES)
    return Published(
        urls=(_CANONICAL, *copies),
        size=8_479_556,
        sha256="5586010257b8536dddefab65e7755077f21d5672d5674dacf911f73ae95a4447",
    )


def ensure_weights(config: MaskVaeConfig) -> Path:
    """Returns the path of the weights. Downloads the published file if it is missing; checks it if it is there.

    Raises:
        CheckpointError: the download failed, or the existing file is not the published one.
    """
    path = config.checkpoint
    if path.name != DEFAULT_CHECKPOINT:
        return path
    published = published_weights(config.hub)
    if path.exists():
        if not _is(published, path):
            raise CheckpointError(f"{path} is not the published file (sha256 {published.sha256}); delete it")
    elif not config.offline:
        fetch(published, path)
    return path  # if it is missing, load_arrays says so


def fetch(published: Published, path: Path, on_progress: OnProgress | None = None) -> None:
    """Downloads a file to `path`, where it appears only when it is complete and checked.

    Resumes a partial download. A file lock lets only one process download at a time.

    Args:
        published: what, and from where.
        path: where to.
        on_progress: called with the bytes that are there, now and then.

    Raises:
        CheckpointError: every address failed, or gave a file of the wrong size or checksum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + _PARTIAL_SUFFIX)
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # another process was first
            partial.unlink(missing_ok=True)
            return
        reasons = []
        for url in published.urls:
            _log.info("downloading %s", url)
            reason = _fetch_from(url, published, file, on_progress or _ignore)
            if reason is None:
                partial.replace(path)
                return
            reasons.append(f"{url}: {reason}")
    raise CheckpointError(
        f"{path} could not be downloaded ({'; '.join(reasons)}); put the file there yourself (sha256 "
        f"{published.sha256}), or set VAE_CHECKPOINT to another one"
    )


def _fetch_from(url: str, published: Published, file: BinaryIO, on_progress: OnProgress) -> str | None:
    """Appends to the file until it is complete. Returns why that failed, or None if it is the published file."""
    reason = "cut off"
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_S * attempt)
        try:
            _append(url, published.size, file, on_progress)
        except urllib.error.HTTPError as error:
            return f"status {error.code}"
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        file.flush()
        if file.tell() >= published.size:
            if _is(published, Path(file.name)):
                return None
            file.truncate(0)
            return "came with a wrong size or checksum and was thrown away"
    return reason


def _append(url: str, size: int, file: BinaryIO, on_progress: OnProgress) -> None:
    start = file.seek(0, os.SEEK_END)
    if start >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - our own addresses
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
        while file.tell() <= size and (chunk := response.read(_CHUNK_BYTES)):
            file.write(chunk)
            on_progress(file.tell())


def _is(published: Published, path: Path) -> bool:
    if path.stat().st_size != published.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == published.sha256


def _ignore(_bytes: int) -> None:
    """Does nothing; used when no progress callback is given."""
