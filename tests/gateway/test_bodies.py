"""What is let in: sizes, bytes of all requests together, and the time that a body takes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from prometheus_client import Gauge
from starlette.types import Message, Receive, Scope, Send

from gateway.door import bodies
from gateway.door.bodies import MIN_HELD_BYTES, PACE_BYTES, BodyMiddleware, ByteBudget, share_of
from gateway.errors import ApiError

MEGABYTE = 1_000_000
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@pytest.fixture
def held() -> Gauge:
    return Gauge("held", "held", registry=None)


def value(held: Gauge) -> float:
    return held._value.get()  # type: ignore[no-any-return]


def scope(declared_bytes: int | None = None) -> Scope:
    headers = [] if declared_bytes is None else [(b"content-length", str(declared_bytes).encode())]
    return {"type": "http", "headers": headers}


def sending(pieces: Iterable[bytes], *, then_s: float = 0.0) -> Receive:
    """A client that sends these and, after the last, nothing for some time."""
    messages = iter([{"type": "http.request", "body": piece, "more_body": True} for piece in pieces])

    async def receive() -> Message:
        if (message := next(messages, None)) is not None:
            return message
        await asyncio.sleep(then_s)
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


async def read_all(_scope: Scope, receive: Receive, _send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


async def ignore(_message: Message) -> None:
    pass


def serve(app: App, budget: ByteBudget, receive: Receive, *, declared_bytes: int | None = None) -> None:
    middleware = BodyMiddleware(app, max_body_bytes=5 * MEGABYTE, budget=budget)
    asyncio.run(middleware(scope(declared_bytes), receive, ignore))  # type: ignore[arg-type]


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ApiError) as error:
        serve(*arguments, **options)
    return error.value.code


def test_a_body_counts_while_it_is_served_and_not_after(held: Gauge) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(value(held))
        await read_all(scope, receive, send)
        seen.append(value(held))

    serve(app, ByteBudget(10 * MEGABYTE, held), sending([bytes(MEGABYTE)] * 3), declared_bytes=3 * MEGABYTE)
    assert seen == [0, 3 * MEGABYTE]
    assert value(held) == 0


def test_a_small_body_counts_what_its_connection_takes(held: Gauge) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_all(scope, receive, send)
        assert value(held) == MIN_HELD_BYTES

    serve(app, ByteBudget(10 * MEGABYTE, held), sending([b"x"] * 3))


def test_what_is_announced_takes_no_room(held: Gauge) -> None:
    """Who announces much and sends little keeps nobody out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert value(held) == MIN_HELD_BYTES

    serve(app, ByteBudget(10 * MEGABYTE, held), sending([b"x"]), declared_bytes=5 * MEGABYTE)


@pytest.mark.parametrize(
    ("declared_bytes", "sent", "code"),
    [
        (5 * MEGABYTE + 1, 0, "request_too_large"),
        (4 * MEGABYTE, 0, "overloaded"),
        (10**30, 0, "request_too_large"),
        (None, 4, "overloaded"),
        (1, 4, "overloaded"),
    ],
)
def test_what_does_not_fit_is_refused(held: Gauge, declared_bytes: int | None, sent: int, code: str) -> None:
    """Before a byte of it is read where it says so, else at the byte that is too much."""
    budget = ByteBudget(3 * MEGABYTE, held)
    read = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            read.append(len(message["body"]))

    receive = sending([bytes(MEGABYTE)] * sent)
    assert refused(app, budget, receive, declared_bytes=declared_bytes) == code
    assert sum(read) == (3 * MEGABYTE if sent else 0)
    assert (budget.free_bytes, value(held)) == (3 * MEGABYTE, 0)


def test_an_endless_body_is_read_up_to_its_limit(held: Gauge) -> None:
    assert refused(read_all, ByteBudget(10**9, held), sending([bytes(MEGABYTE)] * 6)) == "request_too_large"


def test_a_body_that_stops_is_given_up(held: Gauge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PACE_WINDOW_S", 0.05)
    budget = ByteBudget(10**9, held)
    assert refused(read_all, budget, sending([bytes(PACE_BYTES - 1)], then_s=60)) == "request_timeout"
    assert refused(read_all, budget, sending([bytes(PACE_BYTES)] * 3, then_s=60)) == "request_timeout"


@pytest.mark.parametrize(("piece", "kept"), [(bytes(PACE_BYTES), True), (b"x", False)])
def test_a_body_that_keeps_its_pace_may_take_many_windows(held: Gauge, piece: bytes, kept: bool) -> None:
    """The clock is the test's: each piece comes just before its window ends."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        loop.time = lambda: now_s  # type: ignore[method-assign]

        async def receive() -> Message:
            nonlocal now_s
            now_s += 0.9 * bodies.PACE_WINDOW_S
            for _ in range(3):  # the loop sees to its timers
                await asyncio.sleep(0)
            return {"type": "http.request", "body": piece, "more_body": now_s < 8 * bodies.PACE_WINDOW_S + started_s}

        started_s = now_s
        middleware = BodyMiddleware(read_all, max_body_bytes=5 * MEGABYTE, budget=ByteBudget(10**9, held))
        await middleware(scope(), receive, ignore)  # type: ignore[arg-type]

    if kept:
        asyncio.run(run())
        return
    with pytest.raises(ApiError, match="too slowly"):
        asyncio.run(run())


def test_after_the_body_there_is_no_pace(held: Gauge, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is awaited then is only whether the client goes away."""
    monkeypatch.setattr(bodies, "PACE_WINDOW_S", 0.05)
    messages: list[Message] = [{"type": "http.request", "body": b"x"}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        if len(messages) == 1:
            await asyncio.sleep(0.2)
        return messages.pop(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_all(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    serve(app, ByteBudget(10**9, held), receive)


def test_a_large_answer_counts_until_the_client_has_it(held: Gauge) -> None:
    """The server's second `send` returns when the first one's bytes are on their way."""
    sent: list[tuple[int, bool, float]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_all(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(2 * MEGABYTE)})

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            sent.append((len(message["body"]), message.get("more_body", False), value(held)))

    middleware = BodyMiddleware(app, max_body_bytes=5 * MEGABYTE, budget=ByteBudget(10**9, held))
    asyncio.run(middleware(scope(), sending([bytes(MEGABYTE)] * 3), send))  # type: ignore[arg-type]
    assert sent == [(2 * MEGABYTE, True, 2 * MEGABYTE), (0, False, 2 * MEGABYTE)]
    assert value(held) == 0


def test_a_large_piece_is_waited_for_and_what_is_held_stays(held: Gauge) -> None:
    """Who sends an answer in pieces says itself how much of it waits."""
    sent: list[tuple[int, bool, float]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_all(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with share_of(scope).holding(2 * MEGABYTE):
            await send({"type": "http.response.body", "body": bytes(2 * MEGABYTE), "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            sent.append((len(message["body"]), message.get("more_body", False), value(held)))

    middleware = BodyMiddleware(app, max_body_bytes=5 * MEGABYTE, budget=ByteBudget(10**9, held))
    asyncio.run(middleware(scope(), sending([bytes(MEGABYTE)]), send))  # type: ignore[arg-type]
    assert sent == [(2 * MEGABYTE, True, 3 * MEGABYTE), (0, True, 3 * MEGABYTE), (3, False, MEGABYTE)]
    assert value(held) == 0
