"""The clients. Both run the same plans: Client blocks at each step, AsyncClient awaits it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, Unpack

import httpx2

from paligemma_client import plans
from paligemma_client.errors import ClientError, DeadlineExceeded, FetchFailed
from paligemma_client.events import ObjectReader
from paligemma_client.models import Models
from paligemma_client.objects import FoundObject, Result
from paligemma_client.pictures import Picture
from paligemma_client.plans import Ask, Fetch, Finished, Given, ListModels, OpenStream, Plan, Step, advance
from paligemma_client.questions import Asking, AskingFields, Prompt, Task
from paligemma_client.rest import LIMITS, check_fetched, timeouts, tls, translated
from paligemma_client.rest_transports import AsyncRestTransport, RestTransport
from paligemma_client.retrying import Pause
from paligemma_client.targets import check_finished
from paligemma_client.triton import AsyncTritonTransport, TritonTransport

Transport = Literal["rest", "triton"]

DEFAULT_SERVERS: Final[dict[Transport, str]] = {"rest": "http://localhost:8000", "triton": "localhost:8011"}
DEFAULT_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open stream: its lines, and the stack that closes it."""

    stack: ExitStack
    lines: Iterator[str]


@dataclass(frozen=True, slots=True)
class _AsyncOpened:
    """The same for AsyncClient."""

    stack: AsyncExitStack
    lines: AsyncIterator[str]


class Client:
    """Sends requests to a server; threads may share one. Use it as a context manager, or call `close`.

    Requests are repeated, with growing pauses, while the server is full, loading or not reachable, within `timeout_s`.
    All calls may raise the errors of `paligemma_client.errors`.

    Args:
        server: the gateway's address; with `transport="triton"`, host:port of Triton's gRPC.
        transport: "rest", or "triton" to call the model `segment` directly (needs the extra `triton`).
        api_key: for a gateway that requires one.
        timeout_s: for a request and all its repetitions.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        transport: Transport = "rest",
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        server = server or DEFAULT_SERVERS[transport]
        self._timeout_s = timeout_s
        self._web = httpx2.Client(limits=LIMITS, verify=tls())
        self._transport: RestTransport | TritonTransport = (
            RestTransport(server, api_key, self._web) if transport == "rest" else TritonTransport(server, api_key)
        )

    def segment(self, picture: Picture, prompt: Prompt, **asking: Unpack[AskingFields]) -> Result:
        """Returns objects with masks. The prompt is a text or a list of targets; `Asking` describes the options."""
        return self._run(plans.segment(picture, prompt, "segment", Asking(**asking), self._timeout_s))

    def detect(self, picture: Picture, prompt: Prompt, **asking: Unpack[AskingFields]) -> Result:
        """Returns objects with boxes only."""
        return self._run(plans.segment(picture, prompt, "detect", Asking(**asking), self._timeout_s))

    def stream(
        self, picture: Picture, prompt: Prompt, *, task: Task = "segment", **asking: Unpack[AskingFields]
    ) -> Iterator[FoundObject]:
        """Yields objects as the server finds them; if the server does not stream, all at the end.

        Raises IncompleteAnswer after the last object if the server did not finish the answer to a target.
        """
        asked = plans.questions(picture, prompt, task, Asking(**asking), self._timeout_s)
        for question in self._run(asked):
            opened = self._run(plans.open_stream(question, self._timeout_s))
            if isinstance(opened, Result):
                yield from opened.objects
                check_finished(opened.targets)
                continue
            reader = ObjectReader()
            with opened.stack:
                for line in opened.lines:
                    yield from reader.feed(line)
                reader.finish()

    def models(self) -> Models:
        """Returns the server's models; raises UnsupportedCall over gRPC."""
        models: Models = self._run(plans.list_models(self._timeout_s))
        return models

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()
        self._web.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, plan: Plan[Given]) -> Given:
        step = advance(plan)
        while not isinstance(step, Finished):
            try:
                outcome = self._perform(step)
            except ClientError as error:
                step = advance(plan, error=error)
            else:
                step = advance(plan, outcome)
        given: Given = step.value
        return given

    def _perform(self, step: Step) -> Any:
        match step:
            case Pause(seconds):
                return time.sleep(seconds)
            case Ask(question, timeout_s):
                return self._transport.ask(question, timeout_s)
            case ListModels(timeout_s):
                return self._transport.models(timeout_s)
            case OpenStream(question, timeout_s):
                with ExitStack() as stack:
                    lines = stack.enter_context(self._transport.stream(question, timeout_s))
                    return _Opened(stack.pop_all(), lines)
            case Fetch(address, timeout_s):
                with translated(address, FetchFailed):
                    response = self._web.get(address, timeout=timeouts(timeout_s), follow_redirects=True)
                return check_fetched(response, address)


class AsyncClient:
    """Client for asyncio: the same calls as coroutines; `close` is `aclose`."""

    def __init__(
        self,
        server: str | None = None,
        *,
        transport: Transport = "rest",
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        server = server or DEFAULT_SERVERS[transport]
        self._timeout_s = timeout_s
        self._web = httpx2.AsyncClient(limits=LIMITS, verify=tls())
        self._transport: AsyncRestTransport | AsyncTritonTransport = (
            AsyncRestTransport(server, api_key, self._web)
            if transport == "rest"
            else AsyncTritonTransport(server, api_key)
        )

    async def segment(self, picture: Picture, prompt: Prompt, **asking: Unpack[AskingFields]) -> Result:
        """See Client.segment."""
        return await self._run(plans.segment(picture, prompt, "segment", Asking(**asking), self._timeout_s))

    async def detect(self, picture: Picture, prompt: Prompt, **asking: Unpack[AskingFields]) -> Result:
        """See Client.detect."""
        return await self._run(plans.segment(picture, prompt, "detect", Asking(**asking), self._timeout_s))

    async def stream(
        self, picture: Picture, prompt: Prompt, *, task: Task = "segment", **asking: Unpack[AskingFields]
    ) -> AsyncIterator[FoundObject]:
        """See Client.stream."""
        asked = plans.questions(picture, prompt, task, Asking(**asking), self._timeout_s)
        for question in await self._run(asked):
            opened = await self._run(plans.open_stream(question, self._timeout_s))
            if isinstance(opened, Result):
                for found in opened.objects:
                    yield found
                check_finished(opened.targets)
                continue
            reader = ObjectReader()
            async with opened.stack:
                async for line in opened.lines:
                    for found in reader.feed(line):
                        yield found
                reader.finish()

    async def models(self) -> Models:
        """See Client.models."""
        models: Models = await self._run(plans.list_models(self._timeout_s))
        return models

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._transport.close()
        await self._web.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, plan: Plan[Given]) -> Given:
        """Runs a plan. It reads files and processes pixels between its steps, so each step is computed in a thread."""
        step = await asyncio.to_thread(advance, plan)
        while not isinstance(step, Finished):
            try:
                outcome = await self._perform(step)
            except ClientError as error:
                step = await asyncio.to_thread(advance, plan, error=error)
            else:
                step = await asyncio.to_thread(advance, plan, outcome)
        given: Given = step.value
        return given

    async def _perform(self, step: Step) -> Any:
        match step:
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Ask(question, timeout_s):
                return await _within(timeout_s, self._transport.ask(question, timeout_s))
            case ListModels(timeout_s):
                return await _within(timeout_s, self._transport.models(timeout_s))
            case OpenStream(question, timeout_s):
                async with AsyncExitStack() as stack:
                    lines = await stack.enter_async_context(self._transport.stream(question, timeout_s))
                    return _AsyncOpened(stack.pop_all(), lines)
            case Fetch(address, timeout_s):
                with translated(address, FetchFailed):
                    response = await self._web.get(address, timeout=timeouts(timeout_s), follow_redirects=True)
                return check_fetched(response, address)


async def _within(timeout_s: float, call: Any) -> Any:
    """Limits a whole call: httpx2's timeouts limit only its parts."""
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except TimeoutError as error:
        raise DeadlineExceeded(f"no answer within {timeout_s:.1f} s") from error
