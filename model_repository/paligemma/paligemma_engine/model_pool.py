"""Several checkpoints by id: the default one, which stays, and others that come and go on demand.

    submit  ->  loaded: its engine  |  not allowed: refused  |  else: waits for the loader thread

    loader, one checkpoint at a time:  find its files (download)  ->  make room  ->  load  ->  hand over who waited

Room is made only when the files are there: a model that cannot be had evicts no other. The least recently used one
goes; it takes no more requests, ends those in hand, and its memory is given back. Each checkpoint has an engine of its
own, with its own threads and slots, so that nobody waits for another's load; on the CPU their threads share the cores.
"""

import dataclasses
import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

from paligemma_engine import metrics as families
from paligemma_engine.checkpoint_files import ADAPTER_CONFIG, CONFIG
from paligemma_engine.config import EngineConfig
from paligemma_engine.engine import Engine
from paligemma_engine.errors import Cancelled, EngineError, Loading, ModelFailed, ModelNotAllowed
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.model_id import ModelId
from paligemma_engine.records import Request
from paligemma_engine.ticket import OnOutcome, Ticket, stopping_error

_log = logging.getLogger(__name__)

_SWEEP_S: Final = 0.1  # how late a waiting request learns that its time is up

MakeRoom = Callable[[], None]
StartEngine = Callable[[EngineConfig, MakeRoom], Engine]


class ModelPool:
    """Routes requests to engines by model id; loads what is missing. Safe to use from any thread."""

    def __init__(
        self,
        config: EngineConfig,
        default: Engine,
        metrics: EngineMetrics,
        *,
        start: StartEngine,
        release_memory: Callable[[], None],
    ) -> None:
        """Starts the threads.

        Args:
            config: settings of the default engine; the others differ in their model_id.
            default: serves requests that name no model; owned by the pool from now on.
            metrics: collects what happens.
            start: finds a checkpoint, calls back to make room, and starts an engine; raises EngineError.
            release_memory: called when an engine has gone.
        """
        self._config = config
        self._default = default
        self._metrics = metrics
        self._start = start
        self._release_memory = release_memory
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()  # guards the next three
        self._extras: OrderedDict[str, Engine] = OrderedDict()  # the least recently used one first
        self._waiting: OrderedDict[str, list[Ticket]] = OrderedDict()
        self._closing = False
        self._loader = threading.Thread(target=self._load_waiting, name="loader", daemon=True)
        self._loader.start()
        threading.Thread(target=self._sweep_waiting, name="waiting", daemon=True).start()

    def submit(self, request: Request, on_outcome: OnOutcome) -> Ticket:
        """Accepts or refuses a request; either way `on_outcome` is called exactly once, from a sender thread."""
        ticket = Ticket.open(request, on_outcome)
        if request.model_id in (None, "", self._config.model_id):
            self._default.accept(ticket)
            return ticket
        try:
            model_id = self._checked(request.model_id or "")
            with self._changed:
                self._route(model_id, ticket)
        except EngineError as error:
            self._default.refuse(ticket, error)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request whose caller has gone, wherever it is."""
        for engine in self._engines():
            engine.cancel(ticket)

    def close(self, drain_timeout_s: float) -> None:
        """Refuses new requests and those that wait for a load, lets the others end for at most so long."""
        with self._changed:
            self._closing = True
            waiting = [ticket for tickets in self._waiting.values() for ticket in tickets]
            self._waiting.clear()
            self._changed.notify_all()
        for ticket in waiting:
            self._default.refuse(ticket, stopping_error())
        give_up_at = time.monotonic() + drain_timeout_s
        for engine in reversed(self._engines()):  # the default one last: it answers for the pool
            engine.close(max(give_up_at - time.monotonic(), 0.0))

    def _checked(self, text: str) -> str:
        """The id that a request named; raises ModelNotAllowed."""
        wanted = ModelId.parse(text)
        config = self._config
        folder = config.models_dir / wanted.name
        is_folder = text == folder.name and any((folder / name).is_file() for name in (CONFIG, ADAPTER_CONFIG))
        if config.max_extra_models and (
            is_folder or any(fnmatchcase(wanted.name, pattern) for pattern in config.allowed_model_ids)
        ):
            return str(wanted)
        others = ", ".join(config.allowed_model_ids) if config.max_extra_models else ""
        raise ModelNotAllowed(
            f"this server serves {config.model_id}{' and ' if others else ''}{others}; choose another"
        )

    def _route(self, model_id: str, ticket: Ticket) -> None:
        """With the lock held, so that no engine is closed between being found and accepting."""
        if self._closing:
            raise stopping_error()
        if engine := self._extras.get(model_id):
            self._extras.move_to_end(model_id)
            engine.accept(ticket)
            return
        if sum(map(len, self._waiting.values())) >= self._config.max_pending:
            raise Loading(f"{model_id} is not loaded, and enough requests wait for a load; try again later")
        self._waiting.setdefault(model_id, []).append(ticket)
        self._changed.notify_all()

    def _engines(self) -> list[Engine]:
        with self._changed:
            return [self._default, *self._extras.values()]

    def _load_waiting(self) -> None:
        """Loader thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                model_id = next(iter(self._waiting))
                if not self._waiting[model_id]:  # everybody has gone meanwhile
                    del self._waiting[model_id]
                    continue
            self._load(model_id)

    def _load(self, model_id: str) -> None:
        config = dataclasses.replace(
            self._config, model_id=model_id, instance=f"{self._config.instance}-extra-{next(self._numbers)}"
        )
        outcome = self._start_logged(config)
        with self._changed:
            tickets = self._waiting.pop(model_id, [])
            if isinstance(outcome, Engine) and not self._closing:
                self._metrics.set(families.MODELS_LOADED, 1, model_id=model_id)
                self._extras[model_id] = outcome
                for ticket in tickets:
                    outcome.accept(ticket)
                return
        if isinstance(outcome, Engine):
            outcome.close(0.0)
            return
        for ticket in tickets:
            self._default.refuse(ticket, outcome)
        self._release_memory()

    def _start_logged(self, config: EngineConfig) -> Engine | EngineError:
        try:
            return self._start(config, self._make_room)
        except EngineError as error:
            _log.warning("%s was not loaded: %s", config.model_id, error)
            error.__cause__ = error.__context__ = None  # these and the traceback hold what was loaded so far
            return error.with_traceback(None)
        except Exception as error:
            _log.exception("%s was not loaded", config.model_id)
            return ModelFailed(f"{config.model_id} cannot be loaded ({type(error).__name__}); the log has the cause")

    def _make_room(self) -> None:
        """Loader thread: evicts until one more fits; raises Overloaded where nobody is left to load it for."""
        while True:
            with self._changed:
                if self._closing:
                    raise stopping_error()
                if len(self._extras) < self._config.max_extra_models:
                    return
                model_id, engine = self._extras.popitem(last=False)
            _log.info("unloading %s", model_id)
            engine.close(math.inf)
            del engine
            self._metrics.remove(families.MODELS_LOADED, model_id=model_id)
            self._release_memory()

    def _sweep_waiting(self) -> None:
        """Answers those whose caller has gone or whose time is up while they wait for a load."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                over = self._take_over()
            for ticket in over:
                self._default.refuse(ticket, _end_of_waiting(ticket))
            time.sleep(_SWEEP_S)

    def _take_over(self) -> list[Ticket]:
        """The tickets that need not wait any longer; the load that they asked for goes on."""
        now = time.monotonic()
        over: list[Ticket] = []
        for model_id, tickets in self._waiting.items():
            ended = [ticket for ticket in tickets if ticket.cancelled or now >= ticket.deadline]
            over.extend(ended)
            self._waiting[model_id] = [ticket for ticket in tickets if ticket not in ended]
        return over


def _end_of_waiting(ticket: Ticket) -> EngineError:
    if ticket.cancelled:
        return Cancelled("the caller went away")
    return Loading(f"{ticket.request.model_id} is still being loaded; try again later")
