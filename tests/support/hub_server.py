"""A local server that speaks as much of the hub's API as a download needs, and misbehaves on demand."""

import hashlib
import json
import math
import re
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import huggingface_hub.constants
import pytest

LARGE = (".safetensors", ".bin", ".npz")  # stored apart, behind a redirect
CHUNK_BYTES = 1 << 14
HELD_AT_MOST_S = 60.0
HUB_TOKEN_FILE = "hub-token"


def hub_environment(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    """For this process, what HF_ENDPOINT and a home without a token are for a new one."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / HUB_TOKEN_FILE))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)  # what a cut loses at most
    monkeypatch.delenv("HF_TOKEN", raising=False)


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Repository:
    """A model on the hub.

    Attributes:
        files: by name.
        gated: whether its files want a token of somebody who accepted its licence.
        private: whether nobody without such a token may know of it.
        delay_s: before each chunk of a large file.
        cuts: how many more times a large file stops in the middle.
        corrupt: whether large files come with other bytes than promised.
        may_send: large files wait for it.
        sending: set when a large file is asked for.
        tells: what the hub says of the files, `all`, their `sizes` alone, or `nothing`.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    delay_s: float = 0.0
    cuts: int = 0
    corrupt: bool = False
    may_send: threading.Event = field(default_factory=_set_event)
    sending: threading.Event = field(default_factory=threading.Event)
    tells: str = "all"

    @property
    def commit(self) -> str:
        names = json.dumps({name: git_sha1(content) for name, content in sorted(self.files.items())})
        return hashlib.sha1(names.encode()).hexdigest()

    @classmethod
    def of(cls, folder: Path, **properties: Any) -> Self:
        return cls({path.name: path.read_bytes() for path in folder.iterdir()}, **properties)


@dataclass
class HubServer:
    """The server; `with` runs it.

    Attributes:
        repositories: by id.
        tokens: those of people who accepted every licence.
        strangers: valid tokens of people who accepted none.
        requests: how often each file was sent, or begun to be sent.
        ranges: the offsets at which large files were asked to go on.
        leaks: tokens that were sent to where the large files are, which is somebody else's host.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)
    requests: Counter[str] = field(default_factory=Counter)
    ranges: list[int] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            server_of_tests = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Refused(Exception):
    def __init__(self, status: HTTPStatus, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_tests: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        try:
            if found := re.fullmatch(r"/large/([\w.-]+/[\w.-]+)/(\w+)", path):
                self._send_large(self.server_of_tests.repositories[found[1]], found[2])
            elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([\w.-]+))?", path):
                repository = self._open(found[1], found[2] or "main", files=False)
                if "blobs=" in self.path and repository.tells == "nothing":
                    raise Refused(HTTPStatus.NOT_FOUND, "")
                self._send_json(_described(found[1], repository))
            elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/([\w.-]+)", path):
                repository = self._open(found[1], found[2], files=False)
                self._send_json([_listed(name, content) for name, content in repository.files.items()])
            elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path):
                self._send_file(found[1], self._open(found[1], found[2], files=True), found[3])
            else:
                self._send(HTTPStatus.NOT_FOUND, b"")
        except Refused as refusal:
            self._send(refusal.status, b"", refusal.headers)

    def _open(self, name: str, revision: str, *, files: bool) -> Repository:
        hub = self.server_of_tests
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens | hub.strangers:
            raise Refused(HTTPStatus.UNAUTHORIZED, "", "Invalid credentials in Authorization header")
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and token not in hub.tokens):
            status = HTTPStatus.NOT_FOUND if token else HTTPStatus.UNAUTHORIZED
            raise Refused(status, "RepoNotFound", "Repository not found")
        if files and repository.gated and token not in hub.tokens:
            raise Refused(HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED, "GatedRepo", "Access restricted")
        if revision not in ("main", repository.commit):
            raise Refused(HTTPStatus.NOT_FOUND, "RevisionNotFound", "Invalid rev id")
        return repository

    def _send_file(self, name: str, repository: Repository, filename: str) -> None:
        commit = {"X-Repo-Commit": repository.commit}
        if filename not in repository.files:
            self._send(HTTPStatus.NOT_FOUND, b"", {"X-Error-Code": "EntryNotFound", **commit})
            return
        content = repository.files[filename]
        if not filename.endswith(LARGE):
            self._send(HTTPStatus.OK, content, {"ETag": f'"{git_sha1(content)}"', **commit})
            return
        digest = hashlib.sha256(content).hexdigest()
        elsewhere = f"http://localhost:{self.server_of_tests.port}/large/{name}/{digest}?signature=secret"
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._send(HTTPStatus.FOUND, b"", {"Location": elsewhere, **linked, **commit})

    def _send_large(self, repository: Repository, digest: str) -> None:
        hub = self.server_of_tests
        if authorization := self.headers.get("Authorization"):
            hub.leaks.append(authorization)
        name, content = next(
            (name, content)
            for name, content in repository.files.items()
            if hashlib.sha256(content).hexdigest() == digest
        )
        hub.requests[name] += 1
        repository.sending.set()
        repository.may_send.wait(HELD_AT_MOST_S)
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["", "0"])[1])
        if start:
            hub.ranges.append(start)
        if repository.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content)
        if repository.cuts > 0:
            repository.cuts -= 1
            end = start + (end - start) // 2
            self.close_connection = True
        for offset in range(start, end, CHUNK_BYTES):
            time.sleep(repository.delay_s)
            self.wfile.write(content[offset : min(offset + CHUNK_BYTES, end)])

    def _send_json(self, content: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _described(name: str, repository: Repository) -> dict[str, Any]:
    """As with `blobs=true`: each file's size, and how many numbers the safetensors hold, as far as they can be read."""
    siblings = [{"rfilename": file, "size": len(content)} for file, content in repository.files.items()]
    described = {"id": name, "sha": repository.commit, "gated": repository.gated, "siblings": siblings}
    counts = [_count(content) for file, content in repository.files.items() if file.endswith(".safetensors")]
    if counts and all(counts) and repository.tells == "all":
        described["safetensors"] = {"parameters": {"F32": sum(counts)}, "total": sum(counts)}
    return described


def _count(content: bytes) -> int:
    """How many numbers a safetensors file holds; 0 for what is none."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except ValueError:
        return 0
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _listed(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
