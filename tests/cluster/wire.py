"""What the doubles of a cluster's parts share: an HTTPS server on loopback, and the API server's events."""

from __future__ import annotations

import json
import queue
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from lightkube import ApiError, Client
from lightkube.core.resource import NamespacedResource

Object = dict[str, Any]
Answer = Callable[["Request"], None]
LINGER = 0.5  # Seconds that Go's server still reads, so that a client that sends on sees the answer.


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = folder / "double.crt", folder / "double.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=double"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


class Request(BaseHTTPRequestHandler):
    """One request: `url`, `query` and `match` (of the route); answered by `send`."""

    protocol_version = "HTTP/1.1"
    routes: list[tuple[re.Pattern[str], Answer]]
    match: re.Match[str]

    def answer(self) -> None:
        self.url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(self.url.query).items()}
        self.unread = int(self.headers.get("Content-Length", 0))
        self.chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        for pattern, answer in self.routes:
            if match := pattern.fullmatch(self.url.path):
                self.match = match
                with suppress(OSError):
                    answer(self)
                return
        self.send(404, b"404 page not found\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def send(
        self,
        status: int,
        body: bytes = b"",
        kind: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answers; what of the request was not read is read on for a while and then given up, as Go does."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.unread or self.chunked:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if self.unread or self.chunked:
            self.close_connection = True
            self._linger()

    def send_json(self, status: int, body: Object, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(body).encode(), "application/json", headers)

    def body(self, size: int = 256 << 10) -> Iterator[bytes]:
        """The body in pieces; EOFError where the client ends before its end."""
        if self.chunked:
            yield from self._chunks()
            return
        while self.unread:
            piece = self.rfile.read(min(size, self.unread))
            if not piece:
                raise EOFError("unexpected EOF")
            self.unread -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        length = None
        while length != 0:
            head = self.rfile.readline()
            length = int(head.split(b";")[0], 16) if head.endswith(b"\n") else 0
            piece = self.rfile.read(length)
            if len(piece) < length or not self.rfile.readline():
                raise EOFError("unexpected EOF")
            if piece:
                yield piece
        self.chunked = False

    def _linger(self) -> None:
        end = time.monotonic() + LINGER
        self.connection.settimeout(LINGER)
        with suppress(OSError):
            while time.monotonic() < end and self.rfile.read1(1 << 20):
                pass

    def cut(self) -> None:
        """Ends the connection with a reset."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        # SSLSocket.detach leaves the file descriptor alone; closing that one sends the reset.
        socket.socket(fileno=self.connection.detach()).close()

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no event; what is wrong in a double is printed, and pytest shows it."""
        if not isinstance(sys.exception(), OSError | EOFError):
            traceback.print_exc()


@contextmanager
def serving(tls: tuple[Path, Path], routes: dict[str, Answer]) -> Iterator[int]:
    """Serves the routes (patterns of whole paths, the first one counts) over TLS; gives the port."""
    compiled = [(re.compile(pattern), answer) for pattern, answer in routes.items()]
    server = _Server(("127.0.0.1", 0), type("Handler", (Request,), {"routes": compiled}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    # The handshake is done by the connection's own thread.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def overtaken() -> Iterator[None]:
    """Lets pass what the API server says of objects that are gone or have changed; those changes are events too."""
    try:
        yield
    except ApiError as error:
        if error.status.code not in (404, 409):
            raise


class Events:
    """What happens to objects, handled one after the other by one thread."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.problems: list[str] = []
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = threading.Event()

    def follow(self, kind: type, *handlers: Callable[[str, Any], None]) -> None:
        """Calls the handlers with ADDED, MODIFIED or DELETED and the object; those there already are ADDED."""
        threading.Thread(target=self._watch, args=(kind, handlers), daemon=True).start()

    def soon(self, call: Callable[..., None], *arguments: Any) -> None:
        """Calls it among the handlers."""
        self._queue.put(lambda: call(*arguments))

    def later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        timer = threading.Timer(seconds, self.soon, (call, *arguments))
        timer.daemon = True
        timer.start()

    @contextmanager
    def handling(self) -> Iterator[None]:
        thread = threading.Thread(target=self._handle, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self.soon(lambda: None)
            thread.join(10)

    def _watch(self, kind: type, handlers: tuple[Callable[[str, Any], None], ...]) -> None:
        everywhere = {"namespace": "*"} if issubclass(kind, NamespacedResource) else {}
        while not self._ended.is_set():
            try:
                for event, item in self.client.watch(kind, **everywhere, server_timeout=60):
                    for handler in handlers:
                        self.soon(handler, event, item)
            except (ApiError, httpx2.HTTPError):
                time.sleep(0.1)

    def _handle(self) -> None:
        while not self._ended.is_set():
            call = self._queue.get()
            try:
                with overtaken():
                    call()
            except Exception:
                if not self._ended.is_set():
                    self.problems.append(traceback.format_exc())
