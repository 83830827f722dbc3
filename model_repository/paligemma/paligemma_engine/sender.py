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

    def flush(self) -> None:
        """Returns when every job handed over before has run."""
        done = threading.Event()
        self._jobs.put(done.set)
        done.wait()

    def close(self) -> None:
        """Runs every job handed over before, and ends."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                _log.exception("an answer could not be sent")
