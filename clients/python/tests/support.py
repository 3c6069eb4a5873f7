"""What the tests run against: the quickstart as a process, and a server of their own.

The latter is an API with faults that the quickstart can't be brought to, or an endpoint that is sent notices.
"""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio.from_thread
import httpx

T = TypeVar("T")

ADMIN = "admin-token"
ACME = "acme-token"

# `cargo test` builds it; where it is built elsewhere, `QUICKSTART` says so.
_ROOT = Path(__file__).parents[3]
BINARY = Path(os.environ.get("QUICKSTART", _ROOT / "target/debug/examples/quickstart"))


class Quickstart:
    """On a fresh SQLite file and a free port."""

    def __init__(self) -> None:
        assert BINARY.exists(), f"{BINARY} is missing: run cargo build --all-features --example quickstart"
        self._folder = tempfile.TemporaryDirectory()
        database = f"sqlite://{self._folder.name}/quickstart.db"
        env = {
            "LISTEN_ADDR": "127.0.0.1:0",
            "DATABASE_URL": database,
            "QUOTA_WEBHOOK_NETWORKS": "127.0.0.0/8",
            "QUOTA_CLEANUP": "segments=archive",
            "RUST_LOG": "error",
        }
        self._process = subprocess.Popen([BINARY], env=env, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        found = re.match("listening on (http:[^,]+),", first)
        assert found is not None, f"it ended early: {first}"
        self.address = found[1]
        self.url = f"{self.address}/api"

    def create(self, workspace: str, name: str) -> httpx.Response:
        """Creates a segment by the host's own route."""
        headers = {"authorization": f"Bearer {ADMIN}"}
        url = f"{self.url}/workspaces/{workspace}/segments"
        return httpx.post(url, json={"name": name}, headers=headers, trust_env=False, timeout=30)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._folder.cleanup()
        assert status == 0


def create(quickstart: Quickstart, workspace: str, *names: str) -> list[str]:
    """Creates segments that must all be admitted; answers their ids."""
    made = [quickstart.create(workspace, name) for name in names]
    assert [response.status_code for response in made] == [201] * len(names)
    return [response.json()["id"] for response in made]


def until(what: str, ask: Callable[[], T | None]) -> T:
    """Asks until there is an answer, and fails when there never is."""
    deadline = time.monotonic() + 60
    while (answer := ask()) is None:
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)
    return answer


class Seen(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: str


class Reply(NamedTuple):
    """An answer, and what comes after its body."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = {}
    then: Callable[["Handler"], None] | None = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    peer: "Peer"

    def _serve(self) -> None:
        peer = self.peer
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with peer.lock:
            reply = peer.replies[min(len(peer.seen), len(peer.replies) - 1)]
            headers = {name.lower(): value for name, value in self.headers.items()}
            peer.seen.append(Seen(self.command, self.path, headers, body.decode()))
        if reply.status == 0:
            # Nothing, not even a status.
            self.close_connection = True
        else:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.then is None:
                self.send_header("content-length", str(len(reply.body)))
            else:
                self.close_connection = True
            self.end_headers()
            self.wfile.write(reply.body)
        if reply.then is not None:
            reply.then(self)

    do_GET = do_PUT = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Peer:
    """Answers the first request as the first of `replies` says, and so on; from then on as the last one says."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = replies
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        handler = type("PeerHandler", (Handler,), {"peer": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.address}/api/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    # Connections that clients keep open would keep their threads.
    daemon_threads = True
    block_on_close = False

    def shutdown_request(self, request: Any) -> None:
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go are a part of the tests."""


def json_reply(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(json.dumps(body).encode(), status, {"content-type": "application/json", **(headers or {})})


def reset(handler: Handler) -> None:
    # Closed with a time of zero to linger, a socket sends RST.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang(handler: Handler) -> None:
    handler.peer.over.wait(60)


def endless(handler: Handler) -> None:
    while not handler.peer.over.is_set():
        handler.wfile.write(b" " * 65_536)


class Blocking:
    """An async client, as though it were a blocking one: the tests are written once, and run with both."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal, inner: Any) -> None:
        self._portal = portal
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._call(value) if callable(value) else Blocking(self._portal, value)

    def _call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if isinstance(result, Awaitable):
                return self._portal.call(_awaited, result)
            if isinstance(result, AsyncGenerator):
                return self._iterate(result)
            return Blocking(self._portal, result)

        return call

    def _iterate(self, items: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while True:
                try:
                    item = self._portal.call(items.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._portal.call(items.aclose)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
