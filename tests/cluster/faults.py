"""A proxy before the API server that lets it look slow, busy, broken or out of reach."""

from __future__ import annotations

import http.client
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cluster.wire import Object, Request, serving

DROPPED = ("transfer-encoding", "content-length", "connection", "date", "server")
REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass
class ApiFault:
    """What goes wrong with the next `times` requests of a method and a path, both regular expressions.

    `status` is the answer; with `done` the server has done what was asked all the same. `cut` ends the
    connection after so many bytes of the answer's body, of a watch's too; `hang` leaves the request
    without an answer for so many seconds and then ends the connection.
    """

    method: str = ".*"
    path: str = ""
    status: int | None = None
    done: bool = False
    cut: int | None = None
    hang: float | None = None
    times: int = 1
    retry_after: int | None = None

    def meets(self, request: Request) -> bool:
        return bool(
            self.times > 0 and re.fullmatch(self.method, request.command) and re.search(self.path, request.path)
        )


@dataclass
class Seen:
    """One request that came to the proxy."""

    method: str
    path: str
    status: int | None = None


@dataclass
class Proxy:
    """`port` is where it listens; `faults` are used up from the first on."""

    upstream: str
    authority: Path
    port: int = 0
    faults: list[ApiFault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def _fault(self, request: Request) -> ApiFault:
        with self._lock:
            fault = next((fault for fault in self.faults if fault.meets(request)), ApiFault(times=1))
            fault.times -= 1
            return fault

    def pass_on(self, request: Request) -> None:
        fault, seen = self._fault(request), Seen(request.command, request.path, None)
        self.seen.append(seen)
        body = b"".join(request.body())
        if fault.hang is not None:
            self._ended.wait(fault.hang)
            if not fault.done:
                request.cut()
                return
        if fault.status is not None and not fault.done:
            seen.status = fault.status
            _refuse(request, fault)
            return
        where = urlsplit(self.upstream)
        context = ssl.create_default_context(cafile=str(self.authority))
        connection = http.client.HTTPSConnection(where.hostname, where.port, context=context)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in DROPPED}
            connection.request(request.command, request.path, body or None, headers)
            answer = connection.getresponse()
            seen.status = answer.status
            if fault.status is not None:
                answer.read()
                seen.status = fault.status
                _refuse(request, fault)
            elif fault.hang is not None:
                request.cut()
            else:
                _relay(request, answer, fault.cut)
        except http.client.HTTPException:
            request.cut()
        finally:
            connection.close()


def _relay(request: Request, answer: http.client.HTTPResponse, cut: int | None) -> None:
    """Passes an answer on as it comes, in chunks, or up to where it is cut."""
    request.send_response(answer.status)
    for name, value in answer.getheaders():
        if name.lower() not in DROPPED:
            request.send_header(name, value)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    sent = 0
    while piece := answer.read1(1 << 16):
        if cut is not None and sent + len(piece) > cut:
            piece = piece[: cut - sent]
        if piece:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        sent += len(piece)
        if cut is not None and sent >= cut:
            request.cut()
            return
    request.wfile.write(b"0\r\n\r\n")


def _refuse(request: Request, fault: ApiFault) -> None:
    status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": fault.status}
    status |= {"reason": REASONS.get(fault.status, "Unknown"), "message": f"the double of faults says {fault.status}"}
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    request.send_json(fault.status, status, headers)


@contextmanager
def proxy(tls: tuple[Path, Path], upstream: str, authority: Path) -> Iterator[Proxy]:
    """A proxy before the API server at the URL `upstream`."""
    made = Proxy(upstream, authority)
    with serving(tls, {".*": made.pass_on}) as made.port:
        try:
            yield made
        finally:
            made._ended.set()
