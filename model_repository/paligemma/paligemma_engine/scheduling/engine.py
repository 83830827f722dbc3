"""The engine: takes requests from any thread, and answers each exactly once through its callback.

A request's life:

    1  submit     caller's thread     refuses requests beyond the limits
    2  prepare    preparation pool    decodes the image, tokenizes one prompt for each target
    3  schedule   engine thread       prefill into slots, decode steps; owns the model and the slots
    4  answer     sender thread       builds the answer, calls back
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from paligemma_engine import metrics as families
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import EngineError, InternalError, Overloaded
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.preparation.planner import Planner
from paligemma_engine.requests.request import Answer, Request
from paligemma_engine.requests.sequence import Sequence
from paligemma_engine.requests.ticket import (
    OnOutcome,
    Outcome,
    Ticket,
    cancelled_error,
    deadline_error,
    has_room_for_files,
    outcome_of,
    stopping_error,
)
from paligemma_engine.scheduling.heartbeat import INTERVAL_S, Heartbeat
from paligemma_engine.scheduling.protocol import Runner
from paligemma_engine.scheduling.scheduler import Scheduler
from paligemma_engine.scheduling.sender import Sender

_log = logging.getLogger(__name__)

FLUSH_TIMEOUT_S: Final = 3.0  # limit for sending the last answers
STUCK_TIMEOUT_S: Final = 3.0  # limit for a step that runs while the engine is closed
LOOK_INTERVAL_S: Final = 0.1  # how often requests that wait for preparation are checked


class Engine:
    """One checkpoint, its slots, and the threads that serve them."""

    def __init__(
        self,
        config: EngineConfig,
        checkpoint: Checkpoint,
        runner: Runner,
        metrics: EngineMetrics,
        *,
        on_fatal: Callable[[], None],
    ) -> None:
        """Starts the threads.

        Args:
            config: settings.
            checkpoint: what the runner runs.
            runner: owned by the engine thread from now on.
            metrics: counts requests, steps and failures.
            on_fatal: called once from the engine thread after a failure that ends all requests, when each of them has
                been answered as far as answers can still be sent.
        """
        self._checkpoint = checkpoint
        self._planner = Planner(config, checkpoint)
        self._scheduler = Scheduler(runner, metrics)
        self._metrics = metrics
        self._on_fatal = on_fatal
        self._max_unanswered = config.max_pending + runner.slots
        self._heartbeat = Heartbeat(config.heartbeat_dir, config.instance)
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._owners: dict[Sequence, Ticket] = {}  # engine thread only, as the next one
        self._look_again_at = 0.0
        self._lock = threading.Lock()  # guards the next three
        self._unanswered: set[Ticket] = set()
        self._refusal: EngineError | None = None
        self._give_up_at = math.inf
        self._stopping = threading.Event()
        self._unsent: BaseException | None = None  # the exception of an answer that could not be sent
        self._ending = threading.Lock()  # held while the threads are ended
        self._ended = False
        self._sender = Sender()
        self._pool = ThreadPoolExecutor(config.preparation_workers, thread_name_prefix="prepare")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._share = config.model_id
        metrics.set(families.SLOTS, runner.slots, share=self._share)
        self._thread.start()

    @property
    def dtype(self) -> str:
        """Name of the dtype that it computes in."""
        return self._checkpoint.dtype

    @property
    def refusal(self) -> EngineError | None:
        """The error that new requests get, whatever they ask; None while the engine takes requests."""
        return self._refusal

    def submit(self, request: Request, on_outcome: OnOutcome) -> Ticket:
        """Accepts or refuses a request; either way `on_outcome` is called exactly once, from the sender thread."""
        ticket = Ticket.open(request, on_outcome)
        self.accept(ticket)
        return ticket

    def accept(self, ticket: Ticket) -> None:
        """Like `submit`, for a ticket that the caller has already created."""
        with self._lock:
            refusal = self._refusal
            if refusal is None and len(self._unanswered) >= self._max_unanswered:
                refusal = Overloaded(f"{len(self._unanswered)} requests are in hand; try again later")
            if refusal is None and not has_room_for_files(self._unanswered):
                refusal = Overloaded("the images in hand take as much memory as they may; try again later")
            if refusal is None:
                self._unanswered.add(ticket)
        if refusal is not None:
            self.refuse(ticket, refusal)
            return
        try:
            self._pool.submit(self._prepare, ticket)
        except RuntimeError:  # the engine was closed after the check above, or no thread can be started
            self._answer(ticket, stopping_error())

    def refuse(self, ticket: Ticket, error: EngineError) -> None:
        """Answers a ticket that no engine has accepted."""
        self._sender.put(lambda: self._send(ticket, error))

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request whose caller has left; its slots are free before the next decode step."""
        ticket.cancel()
        self._inbox.put(None)

    def fail(self) -> None:
        """Answers every request with an error, as far as answers can be sent, before the process ends."""
        failure = InternalError("the engine failed and is being restarted; try again later")
        with self._lock:
            self._refusal = failure
        self._answer_all(failure)
        if not self._sender.flush(FLUSH_TIMEOUT_S):
            _log.error("the last answers could not be sent within %.0f s", FLUSH_TIMEOUT_S)

    def close(self, drain_timeout_s: float, stuck_timeout_s: float = STUCK_TIMEOUT_S) -> None:
        """Refuses new requests, gives running ones time to end, answers the rest with an error, ends the threads.

        May be called again, from any thread: the shorter limit counts, and each call returns when all threads ended.

        Args:
            drain_timeout_s: time limit for running requests.
            stuck_timeout_s: time limit for the step that runs after that; the thread of a longer one is abandoned.
        """
        self.drain(drain_timeout_s)
        with self._ending:
            if not self._ended:
                self._end(stuck_timeout_s)
                self._ended = True

    def drain(self, timeout_s: float) -> None:
        """Refuses new requests; returns when the running ones have ended, or after the limit."""
        with self._lock:
            self._refusal = self._refusal or stopping_error()
            self._give_up_at = min(self._give_up_at, time.monotonic() + timeout_s)
        while self._unanswered and self._thread.is_alive() and time.monotonic() < self._give_up_at:
            time.sleep(0.02)

    def _end(self, stuck_timeout_s: float) -> None:
        self._stopping.set()
        self._inbox.put(None)
        self._thread.join(stuck_timeout_s)
        if self._thread.is_alive():
            _log.error("a step has not ended within %.0f s; it is left behind", stuck_timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)  # does not wait for an image that takes long to decode
        self._answer_all(stopping_error())
        self._sender.close(FLUSH_TIMEOUT_S)
        self._heartbeat.close()
        for gauge in (families.SLOTS, families.ACTIVE_SLOTS, families.PENDING):
            self._metrics.set(gauge, 0, share=self._share)

    def _prepare(self, ticket: Ticket) -> None:
        """Preparation pool: decodes the image and makes the sequences."""
        try:
            self._planner.plan(ticket)
        except EngineError as error:
            self._answer(ticket, error)
        except BaseException:  # panics of Rust libraries are no Exception
            _log.exception("a request could not be prepared")
            self._answer(ticket, InternalError("the request could not be prepared; the server's log has the cause"))
        else:
            self._inbox.put(ticket)

    def _run(self) -> None:
        """Engine thread."""
        try:
            while not self._stopping.is_set():
                if self._unsent is not None:
                    raise self._unsent
                self._take_inbox()
                self._settle(self._scheduler.run_once())
                self._answer_unprepared()
                self._report()
        except BaseException:
            _log.critical("the engine failed", exc_info=True)
            self.fail()
            self._on_fatal()

    def _take_inbox(self) -> None:
        """Passes prepared tickets to the scheduler; waits for one if there is no other work."""
        idle = not self._scheduler.has_work
        try:
            while True:
                ticket = self._inbox.get(block=idle, timeout=LOOK_INTERVAL_S if self._unanswered else INTERVAL_S)
                idle = False
                if ticket is not None and self._is_unanswered(ticket):
                    self._owners.update(dict.fromkeys(ticket.sequences, ticket))
                    self._scheduler.add(ticket.sequences)
        except queue.Empty:
            return

    def _settle(self, finished: list[Sequence]) -> None:
        for sequence in finished:
            ticket = self._owners.pop(sequence)
            if ticket.is_finished:
                self._answer(ticket)

    def _answer_unprepared(self) -> None:
        """Answers requests that expire or are cancelled while they wait for a preparation worker."""
        now = time.monotonic()
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_INTERVAL_S
        with self._lock:
            waiting = [ticket for ticket in self._unanswered if not ticket.sequences]
        for ticket in waiting:
            if ticket.cancelled:
                self._answer(ticket, cancelled_error())
            elif now >= ticket.deadline:
                self._answer(ticket, deadline_error())

    def _is_unanswered(self, ticket: Ticket) -> bool:
        with self._lock:
            return ticket in self._unanswered

    def _report(self) -> None:
        if self._stopping.is_set():  # closed meanwhile: gauges and heartbeat no longer belong to this thread
            return
        unanswered = len(self._unanswered)
        running = {self._owners[sequence] for sequence in self._scheduler.running}
        self._metrics.set(families.ACTIVE_SLOTS, len(self._scheduler.running), share=self._share)
        self._metrics.set(families.PENDING, max(unanswered - len(running), 0), share=self._share)
        self._heartbeat.beat(unanswered)
        if self._refusal is None and self._heartbeat.told_to_stop():
            with self._lock:
                self._refusal = self._refusal or stopping_error()

    def _answer(self, ticket: Ticket, outcome: Outcome | None = None) -> None:
        """Passes a ticket to the sender, once; without an outcome, the sender builds it from the sequences."""
        with self._lock:
            if ticket not in self._unanswered:
                return
            self._unanswered.remove(ticket)
        self._sender.put(lambda: self._send(ticket, outcome or self._outcome_of(ticket)))

    def _answer_all(self, outcome: EngineError) -> None:
        with self._lock:
            tickets = list(self._unanswered)
        for ticket in tickets:
            self._answer(ticket, outcome)

    def _outcome_of(self, ticket: Ticket) -> Outcome:
        try:
            return outcome_of(ticket, self._checkpoint.processor.tokenizer)
        except BaseException:
            _log.exception("an answer could not be built")
            return InternalError("the answer could not be built; the server's log has the cause")

    def _send(self, ticket: Ticket, outcome: Outcome) -> None:
        """Sender thread. If an answer cannot be sent, later ones cannot either: the engine thread ends the process."""
        ticket.answered = True
        try:
            ticket.on_outcome(outcome)
        except BaseException as error:
            _log.critical("an answer could not be sent", exc_info=True)
            self._unsent = self._unsent or error
            self._inbox.put(None)
            return
        self._metrics.observe(families.REQUEST_SECONDS, time.monotonic() - ticket.accepted_at)
        self._metrics.count(families.REQUESTS, outcome="ok" if isinstance(outcome, Answer) else outcome.code)
        if isinstance(outcome, Answer):
            self._metrics.observe(families.OBJECTS, ticket.box_count(self._checkpoint.vocabulary))
        first_tokens = [at for sequence in ticket.sequences if (at := sequence.first_token_at) is not None]
        if first_tokens:
            self._metrics.observe(families.FIRST_TOKEN_SECONDS, min(first_tokens) - ticket.accepted_at)
