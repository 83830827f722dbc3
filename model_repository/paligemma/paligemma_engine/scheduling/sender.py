"""The sender thread: builds answers and calls back, so that neither delays a decode step."""

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Sender:
    """Runs jobs one after another in a thread of its own."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """Hands over a job; what it raises is logged and harms no other."""
        self._jobs.put(job)

    def flush(self, timeout_s: float) -> bool:
        """Whether every job handed over before has run within so long; a job may hang with a server that is broken."""
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Runs every job handed over before, for at most so long, and ends."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:  # such as a panic of a Rust library: later answers must still be sent
                _log.exception("a job of the sender failed")
            del job  # releases the request before waiting for the next job
