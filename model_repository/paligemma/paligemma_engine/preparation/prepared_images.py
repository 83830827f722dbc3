"""Prepared pictures by the bytes of their files: several prompts on one picture decode it once."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from paligemma_engine.requests.prepared import PreparedImage


class PreparedImages:
    """Prepares a file once, however many ask for it at the same time, and keeps the newest. Thread-safe."""

    def __init__(self, prepare: Callable[[bytes], PreparedImage], *, max_bytes: int) -> None:
        """Args:
        prepare: makes the picture of an encoded file.
        max_bytes: bounds what is kept, the least recently used dropped first; 0 keeps nothing.
        """
        self._prepare = prepare
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # guards the next three
        self._running: dict[bytes, Future[PreparedImage]] = {}
        self._kept: OrderedDict[bytes, PreparedImage] = OrderedDict()
        self._kept_bytes = 0

    def of(self, encoded: bytes) -> PreparedImage:
        """The picture of a file; raises what `prepare` raises, which is not kept."""
        key = hashlib.sha256(encoded).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            awaited = self._running.get(key)
            if awaited is None:
                mine: Future[PreparedImage] = Future()
                self._running[key] = mine
        return self._lead(key, mine, encoded) if awaited is None else awaited.result()

    def _lead(self, key: bytes, outcome: Future[PreparedImage], encoded: bytes) -> PreparedImage:
        try:
            image = self._prepare(encoded)
        except BaseException as error:
            with self._lock:
                del self._running[key]
            outcome.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            self._keep(key, image)
        outcome.set_result(image)
        return image

    def _keep(self, key: bytes, image: PreparedImage) -> None:
        self._kept[key] = image
        self._kept_bytes += image.nbytes
        while self._kept_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
