"""Several checkpoints by id: the default one, which stays, and others that come and go on demand.

    submit  ->  loaded: its engine  |  not allowed, or failed recently: refused  |  else: waits for the loader

    loader, one checkpoint at a time:   are its files here?  ->  can it fit?  ->  make room  ->  load  ->  hand over
                                            | no         ^                                             who waited
    fetcher, one download at a time:    can it fit?  ->  download

A model is evicted only for another one whose files are here, that can fit, and that a request still waits for. The
least recently used one is evicted: it takes no more requests, ends the running ones, and its memory is released. Each
checkpoint has an engine of its own, with its own threads and slots, so that no request waits for another model's load.
On the CPU their threads share the cores.
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
from functools import partial
from typing import Protocol

from paligemma_engine import metrics as families
from paligemma_engine.checkpoints.files import ADAPTER_CONFIG, CONFIG, CheckpointFiles
from paligemma_engine.checkpoints.model_id import ModelId, canonical
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import EngineError, InternalError, Loading, ModelNotAllowed
from paligemma_engine.memory.release import release_memory
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.pool.load_queue import LoadQueue, Wanted
from paligemma_engine.requests.request import Request
from paligemma_engine.requests.ticket import OnOutcome, Ticket, stopping_error
from paligemma_engine.scheduling.engine import Engine

_log = logging.getLogger(__name__)

MakeRoom = Callable[[Callable[[], bool]], None]


class Loader(Protocol):
    """The steps from an id to an engine; each raises EngineError if it fails."""

    def find_here(self, config: EngineConfig) -> CheckpointFiles | None:
        """Returns the folder of the files; None if some must be downloaded."""

    def fetch(self, config: EngineConfig) -> CheckpointFiles:
        """Downloads the files and returns their folder."""

    def load(self, config: EngineConfig, files: CheckpointFiles, make_room: MakeRoom) -> Engine:
        """Loads the files. Before they take memory, calls `make_room` with a function that says if they fit."""


class ModelPool:
    """Routes requests to engines by model id; loads what is missing. Safe to use from any thread."""

    def __init__(self, config: EngineConfig, default: Engine, metrics: EngineMetrics, *, loader: Loader) -> None:
        """Starts the threads.

        Args:
            config: settings of the default engine; the others differ in their model_id.
            default: serves requests that name no model; the pool closes it.
            metrics: counts loads, evictions and failures.
            loader: loads the other checkpoints.
        """
        self._config = config
        self._default = default
        self._default_id = canonical(config.model_id)
        self._metrics = metrics
        self._loader = loader
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the next three
        self._extras: OrderedDict[str, Engine] = OrderedDict()  # the least recently used one first
        self._leaving: list[Engine] = []  # evicted, with requests still running
        self._closing = False
        self._queue = LoadQueue(
            max_waiting=config.max_pending, load=self._load, fetch=self._fetch, refuse=default.refuse
        )

    def submit(self, request: Request, on_outcome: OnOutcome) -> Ticket:
        """Accepts or refuses a request; either way `on_outcome` is called exactly once, from a sender thread."""
        ticket = Ticket.open(request, on_outcome)
        try:
            model_id = self._checked(request.model_id)
            if model_id is None:
                self._default.accept(ticket)
                return ticket
            with self._lock:
                self._route(model_id, ticket)
        except EngineError as error:
            self._default.refuse(ticket, error)
        except OSError:  # for example a folder without read permission
            _log.exception("%s cannot be looked for", request.model_id)
            failure = InternalError("the model cannot be looked for; the server's log has the cause")
            self._default.refuse(ticket, failure)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request whose caller has left, in whichever engine or queue it is."""
        for engine in self._engines():
            engine.cancel(ticket)
        self._queue.wake()

    def close(self, drain_timeout_s: float) -> None:
        """Refuses new requests and those that wait for a load; gives the others `drain_timeout_s` to end."""
        give_up_at = time.monotonic() + drain_timeout_s
        with self._lock:
            self._closing = True
        self._queue.close()
        extras = [engine for engine in self._engines() if engine is not self._default]
        closing = [threading.Thread(target=engine.close, args=(drain_timeout_s,)) for engine in extras]
        for thread in closing:
            thread.start()
        # The default engine drains beside the others and ends last, since it sends the pool's refusals.
        self._default.drain(max(give_up_at - time.monotonic(), 0.0))
        for thread in closing:
            thread.join()
        self._default.close(0.0)

    def fail(self) -> None:
        """Answers every request with an error, before the process ends."""
        self._queue.close()
        for engine in reversed(self._engines()):
            engine.fail()

    def _checked(self, text: str | None) -> str | None:
        """Returns the id that a request named, None for the default model; raises ModelNotAllowed."""
        config = self._config
        if not text or text == config.model_id:
            return None
        wanted = ModelId.parse(text)
        if str(wanted) == self._default_id:
            return None
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
        """Finds the engine with the lock held, so that it is not closed before it accepts the request."""
        if self._closing:
            raise stopping_error()
        if engine := self._extras.get(model_id):
            self._extras.move_to_end(model_id)
            engine.accept(ticket)
        elif error := self._default.refusal:  # nothing is loaded for a server that is about to stop
            self._default.refuse(ticket, error)
        else:
            self._queue.add(model_id, ticket)

    def _engines(self) -> list[Engine]:
        with self._lock:
            return [self._default, *self._extras.values(), *self._leaving]

    def _fetch(self, wanted: Wanted) -> None:
        """Fetcher thread; raises EngineError."""
        config = dataclasses.replace(self._config, model_id=wanted.model_id)
        self._queue.put_back(wanted, self._loader.fetch(config))

    def _load(self, wanted: Wanted) -> None:
        """Loader thread; raises EngineError."""
        config = dataclasses.replace(self._config, model_id=wanted.model_id)
        files = wanted.files or self._loader.find_here(config)
        if files is None:
            self._queue.put_back(wanted, None)
            return
        config = dataclasses.replace(config, instance=f"{config.instance}-extra-{next(self._numbers)}")
        engine = self._loader.load(config, files, partial(self._make_room, wanted))
        with self._lock:
            if not self._closing:
                self._metrics.set(families.MODELS_LOADED, 1, model_id=wanted.model_id, dtype=engine.dtype)
                self._extras[wanted.model_id] = engine
                for ticket in self._queue.take_loaded(wanted):
                    engine.accept(ticket)
                return
        engine.close(0.0)

    def _make_room(self, wanted: Wanted, fits: Callable[[], bool]) -> None:
        """Loader thread: evicts engines until one more is allowed and fits; raises if no request waits for it."""
        while True:
            with self._lock:
                loaded = len(self._extras)
            if not loaded or (loaded < self._config.max_extra_models and fits()):
                return
            if not self._queue.is_wanted(wanted):
                raise Loading(f"{wanted.model_id} is not loaded, since it would evict a model; try again later")
            with self._lock:
                if self._closing:
                    raise stopping_error()
                model_id, engine = self._extras.popitem(last=False)
                self._leaving.append(engine)
            self._evict(model_id, engine)
            del engine
            release_memory()

    def _evict(self, model_id: str, engine: Engine) -> None:
        _log.info("unloading %s", model_id)
        try:
            engine.close(math.inf)
        finally:
            with self._lock:
                self._leaving.remove(engine)
            self._metrics.remove(families.MODELS_LOADED, model_id=model_id, dtype=engine.dtype)
