"""Fetching URLs: what is delivered, and what is too much."""

import asyncio
import time

import pytest
from fetchers import LIMIT, fetch, fetcher, refused
from web import Site, redirect, reply, site


def test_an_image_is_delivered() -> None:
    assert fetch({"/image": reply(b"an image")}) == b"an image"
    assert fetch({"/image": reply(b"an image", content_type="")}) == b"an image"
    assert fetch({"/image": reply(b"x" * LIMIT, content_type="application/octet-stream")}) == b"x" * LIMIT


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
def test_redirects_are_followed(status: str) -> None:
    answers = {"/a/image": redirect("../b", status), "/b": redirect("/c", status), "/c": reply(b"an image")}
    assert fetch(answers, "/a/image") == b"an image"


def test_redirects_end() -> None:
    assert "3 times" in refused({"/image": redirect("/image")}).detail
    chain = {f"/{step}": redirect(f"/{step + 1}") for step in range(4)}
    assert fetch({**chain, "/3": reply(b"x")}, "/0") == b"x"
    assert "3 times" in refused({**chain, "/4": reply(b"x")}, "/0").detail


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial", "304 Not Modified", "404 Not Found", "500 Oh"])
def test_other_statuses_are_no_images(status: str) -> None:
    error = refused({"/image": reply(b"" if status[:3] in ("204", "304") else b"x", status=status)})
    assert (error.code, status[:3] in error.detail) == ("fetch_failed", True)


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "text/plain; image/png"])
def test_other_content_types_are_no_images(content_type: str) -> None:
    assert refused({"/image": reply(b"x", content_type=content_type)}).code == "unsupported_media_type"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x"])
def test_nothing_is_unpacked(encoding: str) -> None:
    """So that there are no bombs, and bytes counted are bytes kept."""
    assert refused({"/image": reply(b"x", content_encoding=encoding)}).code == "fetch_failed"


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    assert refused({"/image": reply(b"", content_length=str(LIMIT + 1))}).code == "image_too_large"


def test_a_body_without_end_is_left() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"100\r\n" + b"x" * 256 + b"\r\n")
            await writer.drain()

    assert refused({"/image": endless}).code == "image_too_large"


def test_a_body_shorter_than_it_says_fails() -> None:
    async def short(writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"x", content_length="10"))
        await writer.drain()

    assert refused({"/image": short}).code == "fetch_failed"


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", reply(content_length="100")])
def test_a_slow_answer_does_not_outlast_the_time(first: bytes) -> None:
    """A byte now and then keeps every timeout of a single read from striking: the whole has its time."""

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    started = time.monotonic()
    error = refused({"/image": trickle}, timeout_s=0.4)
    assert error.code == "fetch_failed"
    assert time.monotonic() - started < 2.0


def test_a_fetch_that_is_cancelled_is_left_at_once() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    async def run() -> None:
        async with site({"/image": silent}) as served:
            task = asyncio.create_task(fetcher().fetch(served.url(), timeout_s=60.0))
            while not served.heads:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
            assert task.cancelled()

    asyncio.run(run())


@pytest.mark.parametrize(
    "junk", [b"\x00\x01\x02\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000]
)
def test_answers_that_are_not_http(junk: bytes) -> None:
    assert refused({"/image": junk}).code == "fetch_failed"


def test_what_is_sent() -> None:
    """The name as it was given; nothing that tells of us, and no encodings."""

    async def run() -> Site:
        async with site({"/image?q=%C3%B6": reply(b"x")}) as served:
            await fetcher().fetch(served.url("/image?q=ö#fragment"), timeout_s=5.0)
            return served

    served = asyncio.run(run())
    (head,) = served.heads
    assert head.lower() == (
        "get /image?q=%c3%b6 http/1.1\r\n"
        f"host: pictures.test:{served.port}\r\naccept: image/*, */*;q=0.1\r\naccept-encoding: identity\r\n"
        "user-agent: paligemma-gateway\r\n\r\n"
    )
