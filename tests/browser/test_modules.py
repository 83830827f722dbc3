"""Modules of the page that compute, held against others' implementations; run in the browser."""

import json
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from real_stack import Stack
from visits import Visit

EVENTS = [{"event": "accepted", "data": {"targets": ["größte Katze"]}}, {"event": "done", "data": {"text": "a\n\nb"}}]


def test_run_lengths_are_those_of_pycocotools(demo: Visit) -> None:
    generator = np.random.default_rng(7)
    for height, width, share in ((1, 1, 1.0), (5, 7, 0.0), (5, 7, 1.0), (48, 64, 0.5), (300, 200, 0.001)):
        mask = (generator.random((height, width)) < share).astype(np.uint8)
        counts = demo.page.evaluate(
            """async ([bytes, width, height]) => {
              const { compress, runLengths } = await import("./demo/coco.js");
              return compress(runLengths(Uint8Array.from(bytes), width, height));
            }""",
            [mask.ravel().tolist(), width, height],
        )
        assert counts == pycocotools.mask.encode(np.asfortranarray(mask))["counts"].decode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_events_are_read_however_they_are_cut(demo: Visit, end: str) -> None:
    lines = [line for one in EVENTS for line in (f"event: {one['event']}", f"data: {json.dumps(one['data'])}", "")]
    text = end.join([": only here to keep the connection open", "", *lines, ""])
    read = demo.page.evaluate(
        """async (text) => {
          const { readEvents } = await import("./demo/stream.js");
          const bytes = new TextEncoder().encode(text);
          const results = [];
          for (let size = 1; size <= bytes.length; size += 1) {
            const body = new ReadableStream({
              start(controller) {
                for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
                controller.close();
              },
            });
            const events = [];
            for await (const event of readEvents(body)) events.push(event);
            results.push(JSON.stringify(events));
          }
          return [...new Set(results)];
        }""",
        text,
    )
    assert [json.loads(one) for one in read] == [EVENTS]


def test_tokens_are_grouped_by_object(demo: Visit) -> None:
    boxes = "<loc0001><loc0002><loc0003><loc0004>"
    text = f"{boxes}<seg000><seg127> cat ; {boxes}{boxes} dog"
    tokens: list[dict[str, Any]] = demo.page.evaluate(
        "async (text) => (await import('./demo/tokens.js')).readTokens(text)", text
    )
    assert "".join(token["text"] for token in tokens) == text
    locs = [token for token in tokens if token["kind"] == "loc"]
    assert [token["group"] for token in locs] == [0] * 4 + [1] * 4 + [2] * 4
    assert [token["place"] for token in locs] == [0, 1, 2, 3] * 3
    assert [token["place"] for token in tokens if token["kind"] == "seg"] == [0, 1]


def test_a_shell_takes_a_copied_command_as_it_was_meant(stack: Stack, demo: Visit) -> None:
    """Quotes in names and prompts would end a word of the command early."""
    command = demo.page.evaluate(
        """async () => {
          const { SNIPPETS } = await import("./demo/snippets.js");
          const picture = { file: new Blob([]), name: 'a "b" c.png' };
          return SNIPPETS.curl({ address: "http://127.0.0.1/", prompt: "Ann's cat", picture, modelId: "", keys: true });
        }"""
    )
    assert "'prompt=Ann'\\''s cat'" in command
    assert """'image_file=@"a \\"b\\" c.png"'""" in command
