"""Send requests to the gateway: one transport for Client, one for AsyncClient."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx2

from paligemma_client.models import Models
from paligemma_client.objects import Result
from paligemma_client.questions import Question
from paligemma_client.rest import STREAM_PATH, RestRequests, error_of, read_models, read_result, translated


class RestTransport:
    """For Client."""

    def __init__(self, server: str, api_key: str | None, web: httpx2.Client) -> None:
        self._requests, self._web = RestRequests(server, api_key, web), web

    def ask(self, question: Question, timeout_s: float) -> Result:
        """One answer."""
        return read_result(self._send(self._requests.segment(question, timeout_s)), question)

    def models(self, timeout_s: float) -> Models:
        """What the server can answer with."""
        return read_models(self._send(self._requests.models(timeout_s)))

    @contextmanager
    def stream(self, question: Question, timeout_s: float) -> Iterator[Iterator[str]]:
        """The lines of an answer as they come."""
        request = self._requests.segment(question, timeout_s, path=STREAM_PATH)
        with translated(self._requests.server):
            response = self._web.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                yield response.iter_lines()
            finally:
                response.close()

    def close(self) -> None:
        """Does nothing: the connections belong to the client."""

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        with translated(self._requests.server):
            return self._web.send(request)


class AsyncRestTransport:
    """For AsyncClient."""

    def __init__(self, server: str, api_key: str | None, web: httpx2.AsyncClient) -> None:
        self._requests, self._web = RestRequests(server, api_key, web), web

    async def ask(self, question: Question, timeout_s: float) -> Result:
        """One answer."""
        return read_result(await self._send(self._requests.segment(question, timeout_s)), question)

    async def models(self, timeout_s: float) -> Models:
        """What the server can answer with."""
        return read_models(await self._send(self._requests.models(timeout_s)))

    @asynccontextmanager
    async def stream(self, question: Question, timeout_s: float) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of an answer as they come."""
        request = self._requests.segment(question, timeout_s, path=STREAM_PATH)
        with translated(self._requests.server):
            response = await self._web.send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise error_of(response)
                yield response.aiter_lines()
            finally:
                await response.aclose()

    async def close(self) -> None:
        """Does nothing: the connections belong to the client."""

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        with translated(self._requests.server):
            return await self._web.send(request)
