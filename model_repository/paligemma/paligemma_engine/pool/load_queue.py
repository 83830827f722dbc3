"""Checkpoints that requests wait for: one thread downloads, one loads, one answers requests that expire while waiting.

add  ->  loader: load  -------------------------------------------->  whoever loads takes the requests
                   |  files are not here        ^
                   v                            |  files are here
                 fetcher: fetch  ---------------+
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from paligemma_engine.checkpoints.files import CheckpointFiles
from paligemma_engine.errors import EngineError, Loading, ModelFailed, Overloaded
from paligemma_engine.memory.release import release_memory
from paligemma_engine.pool.recent_failures import RecentFailures
from paligemma_engine.requests.ticket import Ticket, cancelled_error, has_room_for_files, stopping_error

_log = logging.getLogger(__name__)

_PAUSE_S: Final = 1.0  # pause of the watching thread after an exception
_LONGEST_WAIT_S: Final = 3600.0  # a deadline may exceed the longest wait of a thread


@dataclass(eq=False, slots=True)
class Wanted:
    """A checkpoint that requests wait for.

    Attributes:
        model_id: its id.
        tickets: the requests that wait for it.
        must_be_fetched: whether files are known to be missing locally.
        files: its folder; None until it is known.
    """

    model_id: str
    tickets: list[Ticket] = field(default_factory=list)
    must_be_fetched: bool = False
    files: CheckpointFiles | None = None


Step = Callable[[Wanted], None]
Refuse = Callable[[Ticket, EngineError], None]


class LoadQueue:
    """The checkpoints that requests wait for, the longest-waiting first. Safe to use from any thread."""

    def __init__(self, *, max_waiting: int, load: Step, fetch: Step, refuse: Refuse) -> None:
        """Starts the threads.

        Args:
            max_waiting: most requests that may wait.
            load: loads a checkpoint and takes its requests, or puts it back for download; runs in the loader thread.
            fetch: downloads its files and puts it back for loading; runs in the fetcher thread.
            refuse: answers a request with an error; must not raise.
        """
        self._max_waiting = max_waiting
        self._refuse = refuse
        self._changed = threading.Condition()  # guards the next three
        self._failures = RecentFailures()
        self._wanted: OrderedDict[str, Wanted] = OrderedDict()
        self._closed = False
        steps: dict[str, Callable[[], None]] = {
            "loader": lambda: self._serve(load, must_be_fetched=False),
            "fetcher": lambda: self._serve(fetch, must_be_fetched=True),
            "waiting": self._watch,
        }
        for name, step in steps.items():
            threading.Thread(target=step, name=name, daemon=True).start()

    def add(self, model_id: str, ticket: Ticket) -> None:
        """Adds a request for a checkpoint; raises EngineError if it may not wait."""
        with self._changed:
            if self._closed:
                raise stopping_error()
            if error := self._failures.error_of(model_id):
                raise error
            waiting = [ticket for wanted in self._wanted.values() for ticket in wanted.tickets]
            if len(waiting) >= self._max_waiting or not has_room_for_files(waiting):
                raise Loading(f"{model_id} is not loaded, and enough requests wait for a load; try again later")
            self._wanted.setdefault(model_id, Wanted(model_id)).tickets.append(ticket)
            self._changed.notify_all()

    def put_back(self, wanted: Wanted, files: CheckpointFiles | None) -> None:
        """Passes a checkpoint on: to the loader with its files, to the fetcher without."""
        with self._changed:
            wanted.files, wanted.must_be_fetched = files, files is None
            self._changed.notify_all()

    def is_wanted(self, wanted: Wanted) -> bool:
        """Whether a request still waits for it."""
        with self._changed:
            return bool(wanted.tickets)

    def take_loaded(self, wanted: Wanted) -> list[Ticket]:
        """Removes a loaded checkpoint from the queue and returns the requests that waited for it."""
        with self._changed:
            self._failures.remove(wanted.model_id)
            return self._take(wanted)

    def wake(self) -> None:
        """Makes the watching thread look for cancelled requests."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Refuses waiting and later requests; running loads continue."""
        with self._changed:
            self._closed = True
            tickets = [ticket for wanted in self._wanted.values() for ticket in wanted.tickets]
            for wanted in self._wanted.values():
                wanted.tickets = []
            self._changed.notify_all()
        for ticket in tickets:
            self._refuse(ticket, stopping_error())

    def _serve(self, step: Step, *, must_be_fetched: bool) -> None:
        """Loader and fetcher thread. An exception of a step ends the wait for its checkpoint, not the thread."""
        while wanted := self._next(must_be_fetched=must_be_fetched):
            try:
                step(wanted)
                continue
            except BaseException as error:  # panics of Rust libraries are no Exception
                failure = _explain(wanted, error)
            self._give_up(
                wanted, failure
            )  # after the except block, so that no reference to partly loaded weights is left
            try:
                release_memory()
            except Exception:  # for example after a lost device: the engine fails at its next step
                _log.exception("memory could not be handed back")

    def _next(self, *, must_be_fetched: bool) -> Wanted | None:
        """Waits for a checkpoint in that state; returns None when the queue closes."""
        with self._changed:
            while not self._closed:
                for wanted in list(self._wanted.values()):
                    if wanted.must_be_fetched is not must_be_fetched:
                        continue
                    if wanted.tickets:
                        return wanted
                    del self._wanted[wanted.model_id]  # all its requests have been cancelled or have expired
                self._changed.wait()
        return None

    def _give_up(self, wanted: Wanted, failure: EngineError) -> None:
        with self._changed:
            if not isinstance(failure, Loading | Overloaded):  # the checkpoint itself is not at fault
                failure = self._failures.add(wanted.model_id, failure)
            tickets = self._take(wanted)
        for ticket in tickets:
            self._refuse(ticket, failure)

    def _take(self, wanted: Wanted) -> list[Ticket]:
        if self._wanted.get(wanted.model_id) is wanted:
            del self._wanted[wanted.model_id]
        tickets, wanted.tickets = wanted.tickets, []
        return tickets

    def _watch(self) -> None:
        """Watching thread: answers cancelled and expired requests. The checkpoint is loaded all the same."""
        while not self._closed:
            try:
                for ticket in self._take_ended():
                    self._refuse(ticket, _end_of_waiting(ticket))
            except BaseException:
                _log.exception("the thread that watches over waiting requests failed, and goes on")
                time.sleep(_PAUSE_S)

    def _take_ended(self) -> list[Ticket]:
        """Waits for a change or an expiry; removes and returns tickets that were cancelled or have expired."""
        with self._changed:
            over = self._ended(time.monotonic())
            if not over and not self._closed:
                deadlines = [ticket.deadline for wanted in self._wanted.values() for ticket in wanted.tickets]
                rest_s = min(deadlines, default=math.inf) - time.monotonic()
                self._changed.wait(min(max(rest_s, 0.0), _LONGEST_WAIT_S))
            return over

    def _ended(self, now: float) -> list[Ticket]:
        over: list[Ticket] = []
        for wanted in self._wanted.values():
            ended = [ticket for ticket in wanted.tickets if ticket.cancelled or now >= ticket.deadline]
            over += ended
            wanted.tickets = [ticket for ticket in wanted.tickets if ticket not in ended]
        return over


def _explain(wanted: Wanted, error: BaseException) -> EngineError:
    """Logs a failure and returns the error for its requests."""
    if isinstance(error, EngineError):
        _log.warning(
            "%s was not loaded: %s", wanted.model_id, str(error)
        )  # formatted at once: a handler may keep its arguments, and with them memory
        return type(error)(*error.args)
    _log.error("%s was not loaded", wanted.model_id, exc_info=error)
    return ModelFailed(f"{wanted.model_id} cannot be loaded ({type(error).__name__}); the log has the cause")


def _end_of_waiting(ticket: Ticket) -> EngineError:
    if ticket.cancelled:
        return cancelled_error()
    return Loading(f"{ticket.request.model_id} is still being loaded; try again later")
