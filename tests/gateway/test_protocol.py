"""Connections that are slow before a request's body, or do not take their answer; a real server, with short limits."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from stack import wait_until
from starlette.types import Receive, Scope, Send

from gateway.door.protocol import MAX_HEAD_BYTES, GatewayProtocol

HEAD_TIMEOUT_S = 0.4
ANSWER = b"an answer"
LARGE = 50_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class HastyProtocol(GatewayProtocol):
    head_timeout_s = HEAD_TIMEOUT_S
    pace_window_s = 0.2


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading; /slow after twice the time of a head, /large with more than a socket takes.

    /read reads first.
    """
    if scope["type"] != "http":
        return
    while scope["path"] == "/read" and (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * HEAD_TIMEOUT_S)
    body = bytes(LARGE) if scope["path"] == "/large" else ANSWER
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def server() -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(app, port=0, http=HastyProtocol, timeout_keep_alive=30, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 20, "server started")
    yield server
    server.should_exit = True
    thread.join()


@pytest.fixture
def connection(server: uvicorn.Server) -> Iterator[socket.socket]:
    port = server.servers[0].sockets[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def read_answer(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(ANSWER):
        piece = connection.recv(1000)
        assert piece
        received += piece


def assert_is_closed(connection: socket.socket) -> None:
    """Within the connection's own timeout, which is much longer than the server's."""
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1000) == b""


def trickle(connection: socket.socket, text: bytes) -> None:
    """A byte now and then, until the server has had enough of it."""
    stop = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            for byte in text:
                connection.sendall(bytes([byte]))
                if stop.wait(HEAD_TIMEOUT_S / 4):
                    return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert_is_closed(connection)
    finally:
        stop.set()
        thread.join()


ENDLESS = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000


def test_a_silent_connection_is_closed(connection: socket.socket) -> None:
    assert_is_closed(connection)


@pytest.mark.parametrize("text", [ENDLESS, b"\r\n" * 500], ids=["head", "empty lines"])
def test_a_head_that_trickles_is_cut_off(connection: socket.socket, text: bytes) -> None:
    trickle(connection, text)


def test_so_is_a_later_one(connection: socket.socket) -> None:
    connection.sendall(GET)
    read_answer(connection)
    trickle(connection, ENDLESS)


def test_so_is_one_that_came_with_the_request_before_it(connection: socket.socket) -> None:
    connection.sendall(GET + ENDLESS[:20])
    read_answer(connection)
    trickle(connection, ENDLESS[20:])


def test_so_is_the_rest_of_a_body_that_nobody_wants(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    read_answer(connection)
    trickle(connection, b"x" * 500)


def test_an_endless_head_is_cut_off(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        connection.sendall(ENDLESS + b"x" * (10 * MAX_HEAD_BYTES))
    assert_is_closed(connection)


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


def send_all(connection: socket.socket, text: bytes) -> None:
    """As much of a text as the server takes, which closes then."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(text)
    assert_is_closed(connection)


@pytest.mark.parametrize(
    "text",
    [
        b"0\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES,
        b"0\r\na: " + b"b" * 10 * MAX_HEAD_BYTES,
        b"1;" + b"a" * 10 * MAX_HEAD_BYTES,
    ],
    ids=["trailers", "a trailer", "a chunk's extension"],
)
def test_what_stands_between_and_behind_chunks_is_bounded(connection: socket.socket, text: bytes) -> None:
    """Headers behind a body were kept without a limit, and no other limit counted them."""
    connection.sendall(CHUNKED.replace(b"/ ", b"/read ", 1))
    send_all(connection, text)


def test_trailers_of_a_refused_body_are_not_kept(server: uvicorn.Server, connection: socket.socket) -> None:
    connection.sendall(CHUNKED)
    read_answer(connection)
    protocols = [each for each in server.server_state.connections if isinstance(each, HastyProtocol)]
    protocol = next(each for each in protocols if each.client == connection.getsockname())
    send_all(connection, b"0\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES)
    assert protocol.headers == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


def test_a_body_in_tiny_chunks_is_no_head(connection: socket.socket) -> None:
    """Nor are trailers that are few."""
    connection.sendall(CHUNKED.replace(b"/ ", b"/read ", 1))
    connection.sendall(b"1\r\nx\r\n" * MAX_HEAD_BYTES + b"0\r\na: b\r\n\r\n" + GET)
    read_answer(connection)


def test_what_cannot_be_read_behind_the_last_answer_ends_the_connection(
    server: uvicorn.Server, connection: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """The parser's refusal was written behind the end of what is sent, and the log had a traceback."""
    connection.sendall(CHUNKED.replace(b"Host: a", b"Host: a\r\nConnection: close", 1))
    read_answer(connection)
    assert connection.recv(1000) == b""
    send_all(connection, b"nonsense\r\n")
    wait_until(lambda: not server.server_state.connections, 10, "the connection is gone")
    assert not [record for record in caplog.records if record.exc_info]


def test_a_slow_answer_and_an_idle_connection_are_no_slow_head(connection: socket.socket) -> None:
    connection.sendall(GET.replace(b"/ ", b"/slow ", 1))
    read_answer(connection)
    assert not threading.Event().wait(2 * HEAD_TIMEOUT_S)
    connection.sendall(GET)
    read_answer(connection)


def test_a_connection_whose_refused_body_has_come_is_idle(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
    read_answer(connection)
    connection.sendall(b"67890")
    assert not threading.Event().wait(2 * HEAD_TIMEOUT_S)
    connection.sendall(GET)
    read_answer(connection)


def test_a_client_that_is_refused_gets_its_answer(connection: socket.socket) -> None:
    """Also one that wants the connection closed, and sends on although nobody listens."""
    count = 5_000_000
    head = f"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {count}\r\n\r\n"
    connection.sendall(head.encode() + bytes(count))
    read_answer(connection)
    assert connection.recv(1000) == b""


def test_but_is_not_heard_for_ever(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n")
    read_answer(connection)
    with pytest.raises(ConnectionError):
        for _ in range(500):
            connection.sendall(b"x")
            threading.Event().wait(HEAD_TIMEOUT_S / 4)


def test_an_answer_that_nobody_takes_is_given_up(server: uvicorn.Server, connection: socket.socket) -> None:
    connection.sendall(GET.replace(b"/ ", b"/large ", 1))
    wait_until(lambda: bool(server.server_state.tasks), 10, "answering")
    wait_until(lambda: not server.server_state.tasks, 10, "given up")
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 20):
            received += len(piece)
    assert received < LARGE
