"""Many callers at once, of every kind, on a real Triton."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import tritonclient.grpc.aio as grpcclient
from pressure import under_load
from raw_http import segment_request
from stack import published_metrics

from parts.soak.caller import Caller
from parts.soak.kinds import OK, Call, good_calls, mixed_calls

REQUESTS = 300
CLIENTS = 32
FLOOD = 500
LONG_ONES = 24


def run(stack: Any, scenario: Callable[[Caller], Awaitable[None]]) -> None:
    async def connected() -> None:
        async with grpcclient.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}") as client:
            await scenario(Caller(client))

    asyncio.run(connected())


def total(text: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def test_every_request_gets_one_answer_of_the_right_kind_and_the_same_as_alone(stack: Any) -> None:
    async def scenario(caller: Caller) -> None:
        await caller.ask_alone(good_calls())
        tally = await caller.ask_all(mixed_calls(REQUESTS, seed=1, bad_share=0.4), clients=CLIENTS)
        assert [(call.kind, outcome) for call, outcome in tally.wrong] == []
        assert tally.count == REQUESTS
        assert len({kind for kind, _ in tally.outcomes}) == 10

    before = published_metrics(stack.ports)
    run(stack, scenario)
    after = published_metrics(stack.ports)
    assert total(after, "paligemma_active_slots") == total(after, "paligemma_pending_requests") == 0
    counted = total(after, "paligemma_requests_total") - total(before, "paligemma_requests_total")
    assert 0 <= REQUESTS + len(good_calls()) - counted <= REQUESTS * 0.1  # some are cancelled before they reach it


def test_a_flood_is_answered_or_refused_at_once(stack: Any) -> None:
    async def scenario(caller: Caller) -> None:
        calls = good_calls() * (FLOOD // len(good_calls()) + 1)
        outcomes = await asyncio.gather(*(caller.outcome_of(call) for call in calls[:FLOOD]))
        assert set(outcomes) == {OK, "overloaded"}
        assert await caller.outcome_of(calls[0]) == OK

    run(stack, scenario)


def test_the_load_shows_before_anything_is_refused(stack: Any) -> None:
    """An autoscaler follows the requests that wait and run, and has slots as its target: it must be there in time."""
    calls = [call for call in good_calls() if call.kind == "one target"]
    gauges = ("paligemma_pending_requests", "paligemma_active_slots")
    slots = total(published_metrics(stack.ports), "paligemma_slots")
    crossed_at = refused_at = None
    for clients in (8, 56, 96):
        seen: list[float] = []

        def look(seen: list[float] = seen) -> None:
            for _ in range(2):
                text = published_metrics(stack.ports)
                seen.append(sum(total(text, name) for name in gauges))

        replies = under_load(
            stack.ports.gateway,
            look,
            clients=clients,
            make=lambda client, number: segment_request(calls[number % 16].image, calls[client % 16].prompt),
        )
        assert {reply.status for reply in replies} <= {200, 503}
        if crossed_at is None and max(seen) >= slots:
            crossed_at = clients
        if any(reply.status == 503 for reply in replies):
            refused_at = clients
            break
    assert crossed_at is not None and refused_at is not None
    assert crossed_at < refused_at


def test_a_newcomer_does_not_wait_for_all_before_it(stack: Any) -> None:
    """`nothing there` is answered by its first token, while most of the long answers are still being written."""
    long, short = ([call for call in good_calls() if call.kind == kind] for kind in ("one target", "nothing there"))
    ended: list[str] = []

    async def scenario(caller: Caller) -> None:
        async def ask(call: Call) -> None:
            assert await caller.outcome_of(call) == OK
            ended.append(call.kind)

        running = [asyncio.create_task(ask(long[number % len(long)])) for number in range(LONG_ONES)]
        await asyncio.sleep(0.05)
        await asyncio.gather(ask(short[0]), *running)

    run(stack, scenario)
    assert ended.index("nothing there") < LONG_ONES // 2
    assert len(ended) == LONG_ONES + 1
