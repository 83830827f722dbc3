"""The sender thread: builds answers and calls the callbacks, so that neither delays a decode step."""

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
        """Queues a job; an exception of it is logged and does not affect other jobs."""
        self._jobs.put(job)

    def flush(self, timeout_s: float) -> bool:
        """Waits for the queued jobs; returns whether all ran in time. A job may hang in a broken server."""
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Runs the queued jobs for at most `timeout_s`, then ends the thread."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:  # for example a panic of a Rust library: later answers must still be sent
                _log.exception("a job of the sender failed")
            del job  # releases the request before waiting for the next job
