"""What the page says when something goes wrong, and how the user goes on."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect
from real_stack import Stack
from stack import ChildProcess, answers_200, free_ports, gateway, wait_until
from visits import REFUSED, Visit

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"

Front = Callable[..., contextlib.AbstractContextManager[tuple[str, ChildProcess]]]


@pytest.fixture
def front(stack: Stack) -> Front:
    """Starts a further gateway with other settings in front of the shared Triton."""

    @contextlib.contextmanager
    def running(**settings: str) -> Iterator[tuple[str, ChildProcess]]:
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        with gateway(replace(stack.ports, gateway=port), **settings) as process:
            wait_until(lambda: answers_200(f"{url}/healthz"), 30, "gateway alive")
            yield url, process

    return running


def test_a_key_is_asked_for_and_kept_in_this_tab(front: Front, visit: Callable[..., Visit], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann:open-sesame\n")
    with front(API_KEYS_FILE=str(keys)) as (url, _):
        demo = visit(url).open()
        expect(demo["failure"]).to_be_hidden()
        demo.forgive(REFUSED)
        demo.ask("penguin")
        expect(demo["failure"]).to_contain_text("A key is needed")
        expect(demo["failure"]).to_contain_text("401")
        expect(demo["key"]).to_be_focused()
        demo["key"].fill("open-sesame")
        demo["key"].press("Enter")
        expect(demo["failure"]).to_be_hidden()
        expect(demo["model"]).to_contain_text("paligemma2-demo-224")
        demo.ask("penguin")
        demo.answered()
        assert "open-sesame" not in demo.page.content()
        expect(demo["snippet"]).to_contain_text("$API_KEY")
        demo.page.reload()
        demo.page.wait_for_selector("body.ready")
        demo.ask("penguin")
        demo.answered()


def test_a_key_that_no_header_can_hold(front: Front, visit: Callable[..., Visit], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("open-sesame\n")
    with front(API_KEYS_FILE=str(keys)) as (url, _):
        demo = visit(url).open()
        demo["key"].fill("open\u2013sesame")
        demo["key"].press("Enter")
        expect(demo["failure"]).to_contain_text("A key is needed")
        expect(demo["failure"]).to_contain_text("printable ASCII")


def test_a_browser_that_keeps_nothing(front: Front, visit: Callable[..., Visit], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("open-sesame\n")
    with front(API_KEYS_FILE=str(keys)) as (url, _):
        demo = visit(url)
        blocked = '{ get() { throw new DOMException("blocked", "SecurityError"); } }'
        for name in ("localStorage", "sessionStorage"):
            demo.page.add_init_script(f'Object.defineProperty(window, "{name}", {blocked})')
        demo.open()
        demo["key"].fill("open-sesame")
        demo["key"].press("Enter")
        expect(demo["model"]).to_contain_text("paligemma2-demo-224")
        demo.ask("penguin")
        demo.answered()


def test_a_server_that_fetches_nothing_says_so_when_an_address_is_dropped(
    front: Front, visit: Callable[..., Visit]
) -> None:
    with front(URL_FETCH="off") as (url, _):
        demo = visit(url).open()
        demo.page.evaluate(
            """() => {
              const dataTransfer = new DataTransfer();
              dataTransfer.setData("text/uri-list", "http://example.org/cat.jpg");
              document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
            }"""
        )
        expect(demo["failure"]).to_contain_text("fetches no pictures from the web")
        expect(demo.page.get_by_role("img", name="everyday.jpg")).to_be_visible()


def test_a_picture_that_is_too_large(front: Front, visit: Callable[..., Visit]) -> None:
    with front(MAX_IMAGE_BYTES="20000") as (url, _):
        demo = visit(url).open()
        demo.forgive(REFUSED)
        demo.ask("penguin")
        expect(demo["failure"]).to_contain_text("The picture is too large")
        expect(demo["failure"]).to_contain_text("413")
        expect(demo["failure"]).to_contain_text("send at most 20000")
        expect(demo["failure"]).to_contain_text("request ")


def test_a_prompt_with_too_many_things(demo: Visit) -> None:
    demo.forgive(REFUSED)
    demo.ask(" ; ".join("abcdefghi"))
    expect(demo["failure"]).to_contain_text("This prompt cannot be answered")
    expect(demo["failure"]).to_contain_text("422")
    demo.ask("penguin")
    demo.answered()
    expect(demo["failure"]).to_be_hidden()


def test_a_file_that_is_damaged(demo: Visit, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((DOCS / "sample.png").read_bytes()[:500])
    demo["file"].set_input_files(damaged)
    demo.forgive(REFUSED)
    demo.ask("penguin")
    expect(demo["failure"]).to_contain_text("The picture cannot be read")


def test_a_model_server_that_is_gone(front: Front, visit: Callable[..., Visit]) -> None:
    (nobody,) = free_ports(1)
    address = f"127.0.0.1:{nobody}"
    with front(TRITON_GRPC_URL=address, TRITON_METRICS_URL=f"http://{address}/metrics") as (url, _):
        demo = visit(url)
        demo.forgive(REFUSED)
        demo.open()
        expect(demo["failure"]).to_contain_text("The model server does not answer")
        demo.ask("penguin")
        expect(demo["failure"]).to_contain_text("503")
        expect(demo["failure"].get_by_role("button", name="Try again")).to_be_visible()


def test_a_gateway_that_is_gone(front: Front, visit: Callable[..., Visit]) -> None:
    with front() as (url, process):
        demo = visit(url).open()
        process.stop()
        demo.forgive(REFUSED)
        demo.ask("penguin")
        expect(demo["failure"]).to_contain_text("The service cannot be reached")
        expect(demo["run"]).to_have_text("Segment")
        expect(demo["failure"].get_by_role("button", name="Try again")).to_be_visible()


def test_a_question_is_cancelled(front: Front, visit: Callable[..., Visit]) -> None:
    """The gateway stands still meanwhile: the question cannot be answered before it is cancelled."""
    with front() as (url, process):
        demo = visit(url).open()
        process.process.send_signal(signal.SIGSTOP)
        try:
            for cancel in (demo["run"].click, lambda: demo["prompt"].press("Escape")):
                demo.ask("penguin")
                expect(demo["run"]).to_have_text("Cancel")
                cancel()
                expect(demo["run"]).to_have_text("Segment")
                expect(demo["said"]).to_have_text("Cancelled.")
        finally:
            process.process.send_signal(signal.SIGCONT)
        expect(demo["failure"]).to_be_hidden()
        demo.ask("penguin")
        demo.answered()
        assert demo.labels == ["penguin"]


def test_escape_closes_a_window_and_cancels_nothing(demo: Visit) -> None:
    held: list[Route] = []
    demo.page.route("**/segment/stream", lambda route: held.append(route))  # noqa: PLW0108 - Playwright wraps no builtin
    demo.ask("penguin")
    expect(demo["run"]).to_have_text("Cancel")
    demo["open-url"].click()
    demo["url"].press("Escape")
    expect(demo["url-dialog"]).to_be_hidden()
    expect(demo["run"]).to_have_text("Cancel")
    held[0].continue_()
    demo.answered()
