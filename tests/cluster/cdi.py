"""A double of CDI 1.66 at the wire: tokens, the upload proxy with its servers, and what is said of claims."""

from __future__ import annotations

import base64
import errno
import gzip
import hmac
import html
import io
import json
import lzma
import math
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cluster.csi import Driver, Volume
from cluster.wire import Answer, Events, Request, overtaken
from lightkube import ApiError
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod
from lightkube.utils.quantity import parse_quantity

ANNOTATION = "cdi.kubevirt.io/"
TARGET = f"{ANNOTATION}storage.upload.target"
CONTENT = f"{ANNOTATION}storage.contentType"
IMMEDIATE = f"{ANNOTATION}storage.bind.immediate.requested"
PHASE, READY = f"{ANNOTATION}storage.pod.phase", f"{ANNOTATION}storage.pod.ready"
OVERHEAD = 0.06
ALIGNMENT = 1 << 20  # Of the images that CDI makes larger.
SCRATCH = "fast"  # The storage class of scratch space.
HEADER = 512
BEARER = re.compile(r"(?i)Bearer\s+([A-Za-z0-9\-._~+/]+)")
# Where a format's magic bytes are; a fixed VHD has none there and is taken for raw.
FORMATS = {
    "qcow2": (0, b"QFI\xfb"),
    "vmdk": (0, b"KDMV"),
    "vdi": (0x40, b"\x7f\x10\xda\xbe"),
    "vpc": (0, b"conectix"),
    "vhdx": (0, b"vhdxfile"),
}
GZIP, XZ, ZSTD = b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"


@dataclass
class UploadFault:
    """What goes wrong with the next `times` uploads that come to a claim's server."""

    cut: int | None = None  # The connection ends after so many bytes of the body.
    status: int | None = None  # The answer, before a byte is read.
    full: int | None = None  # The disk is full after so many bytes.
    stall: float = 0.0  # Nothing is taken for so many seconds once the body has begun.
    lost: bool = False  # All is taken, and the connection ends without an answer.
    damage: Callable[[Path], None] | None = None  # Is done to the claim's image, and the answer is 200.
    times: int = 1


@dataclass
class Upload:
    """One request that came to the upload proxy; `received` bytes of its body, answered with `status`."""

    method: str
    path: str
    claim: str | None = None
    received: int = 0
    status: int | None = None


class NoCapacity(Exception):
    """The image does not fit the claim."""


@dataclass
class Server:
    """What fills one claim; as an upload server it takes one upload."""

    claim: PersistentVolumeClaim
    volume: Volume
    scratch: Path
    busy: bool = False
    done: bool = False
    restarts: int = 0
    log: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.measure()

    @property
    def block(self) -> bool:
        return self.volume.mode == "Block"

    @property
    def asked(self) -> int:
        return int(parse_quantity(self.claim.spec.resources.requests["storage"]))

    def measure(self) -> None:
        """What CDI takes for the room before it begins: of a file system no more than was asked for."""
        room = self.volume.available()
        self.available = room if self.block else min(room, self.asked)


class Tokens:
    """Tokens for one claim each that end after `seconds`."""

    def __init__(self) -> None:
        self.seconds = 300.0
        self._key = secrets.token_bytes(32)

    def issue(self, namespace: str, claim: str) -> str:
        payload = {"namespace": namespace, "name": claim, "exp": time.time() + self.seconds}
        head = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, payload))
        return f"{head}.{self._sign(head)}"

    def read(self, token: str) -> tuple[str, str] | None:
        """The namespace and name of its claim; None for a token that is none or has ended."""
        head, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature, self._sign(head)):
            return None
        payload = json.loads(base64.urlsafe_b64decode(head.partition(".")[2] + "=="))
        return None if time.time() > payload["exp"] else (payload["namespace"], payload["name"])

    def _sign(self, head: str) -> str:
        return _base64(hmac.digest(self._key, head.encode(), "sha256"))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Uploads:
    """Claims with the annotation TARGET get a server, which the proxy leads to."""

    def __init__(self, events: Events, driver: Driver, root: Path) -> None:
        self.events, self.client, self.driver, self.root = events, events.client, driver, root
        self.tokens = Tokens()
        self.ready_seconds = 10.0
        self.faults: list[UploadFault] = []
        self.seen: list[Upload] = []
        self.servers: dict[str, Server] = {}
        events.follow(PersistentVolumeClaim, self._claim)
        events.follow(Pod, self._pod)

    @property
    def routes(self) -> dict[str, Answer]:
        return {
            r"/healthz": lambda request: request.send(200, b"OK"),
            r"/v1(?:beta1|alpha1)/upload(-form)?(-async)?": self._proxy,
            r"/apis/upload\.cdi\.kubevirt\.io/v1beta1": self._kinds,
            r"/apis/upload\.cdi\.kubevirt\.io/v1beta1/namespaces/([^/]+)/uploadtokenrequests": self._token,
        }

    def _kinds(self, request: Request) -> None:
        kind = {"name": "uploadtokenrequests", "singularName": "uploadtokenrequest", "namespaced": True}
        kind |= {"kind": "UploadTokenRequest", "verbs": ["create"]}
        version = "upload.cdi.kubevirt.io/v1beta1"
        known = {"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": version, "resources": [kind]}
        request.send_json(200, known)

    def _token(self, request: Request) -> None:
        wanted = json.loads(b"".join(request.body()))
        wanted["status"] = {"token": self.tokens.issue(request.match[1], wanted["spec"]["pvcName"])}
        request.send_json(200, wanted)

    # What the upload controller does.

    def _pod(self, event: str, pod: Pod) -> None:
        """A claim that was in use by a pod may be free now."""
        if event == "DELETED" or pod.status.phase in ("Succeeded", "Failed"):
            for claim in self.client.list(PersistentVolumeClaim, namespace=pod.metadata.namespace):
                with overtaken():
                    self._claim("MODIFIED", claim)

    def _claim(self, event: str, claim: PersistentVolumeClaim) -> None:
        uid, annotations = claim.metadata.uid, claim.metadata.annotations or {}
        if event == "DELETED" or TARGET not in annotations:
            if self.servers.pop(uid, None):
                self._scratch(claim, self.client.delete)
        elif claim.status.phase != "Bound":
            if IMMEDIATE in annotations and self.driver.waits_for_consumer(claim):
                self.driver.select(claim)
        elif annotations.get(PHASE) == "Succeeded":
            self.servers.pop(uid, None)
            self._scratch(claim, self.client.delete)
        elif uid not in self.driver.volumes:
            return  # what is told of a claim can be older than the end of its volume
        elif uid not in self.servers and not self._in_use(claim):
            if not self._scratch(claim, self.client.create):
                self.events.later(0.2, self._look, claim.metadata.namespace, claim.metadata.name)
                return
            scratch = self.root / f"scratch-{uid}"
            self.servers[uid] = Server(claim, self.driver.volumes[uid], scratch)
            self._say(claim, PHASE, "Pending", "false")
            self.events.soon(self._say, claim, PHASE, "Running", "true")

    def _look(self, namespace: str, name: str) -> None:
        self._claim("MODIFIED", self.client.get(PersistentVolumeClaim, name, namespace=namespace))

    def _scratch(self, claim: PersistentVolumeClaim, act: Callable[..., Any]) -> bool:
        """Makes or deletes the claim beside it for what is to be converted; False where a quota forbids it."""
        name, namespace = f"{claim.metadata.name}-scratch", claim.metadata.namespace
        try:
            if act == self.client.delete:
                act(PersistentVolumeClaim, name, namespace=namespace)
            else:
                owner = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": claim.metadata.uid}
                owners = [owner | {"name": claim.metadata.name}]
                spec = {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": SCRATCH}
                spec["resources"] = claim.spec.resources.to_dict()
                metadata = {"name": name, "namespace": namespace, "ownerReferences": owners}
                act(PersistentVolumeClaim.from_dict({"metadata": metadata, "spec": spec}))
        except ApiError as error:
            return error.status.code in (404, 409)
        return True

    def _in_use(self, claim: PersistentVolumeClaim) -> bool:
        """No upload server starts beside a pod that has the claim."""
        return any(
            volume.persistentVolumeClaim and volume.persistentVolumeClaim.claimName == claim.metadata.name
            for pod in self.client.list(Pod, namespace=claim.metadata.namespace)
            if pod.status.phase not in ("Succeeded", "Failed")
            for volume in pod.spec.volumes or []
        )

    def _say(self, claim: PersistentVolumeClaim, key: str, phase: str, ready: str) -> None:
        running = f"{ANNOTATION}storage.condition.running"
        server = self.servers.get(claim.metadata.uid)
        restarts = str(server.restarts if server else 0)
        texts = {key: phase, READY: ready, running: ready, f"{ANNOTATION}storage.pod.restarts": restarts}
        texts[f"{running}.message"] = server.log if server and ready == "false" else ""
        texts[f"{ANNOTATION}storage.uploadPodName"] = f"cdi-upload-{claim.metadata.name}"
        self.client.patch(
            PersistentVolumeClaim,
            claim.metadata.name,
            {"metadata": {"annotations": texts, "uid": claim.metadata.uid}},
            namespace=claim.metadata.namespace,
        )

    # The proxy, and the servers behind it.

    def _proxy(self, request: Request) -> None:
        upload = Upload(request.command, request.url.path)
        self.seen.append(upload)
        status, text = self._admitted(request, upload)
        if status == 0:
            request.cut()
        else:
            upload.status = status
            request.send(status, text.encode())

    def _admitted(self, request: Request, upload: Upload) -> tuple[int, str]:
        """The status and the text of the answer; status 0 where the connection ends without one."""
        header = BEARER.fullmatch(request.headers.get("Authorization", ""))
        if not header:
            return 400, ""
        known = self.tokens.read(header[1])
        if known is None:
            return 401, ""
        upload.claim = "/".join(known)
        try:
            server = self._ready(*known)
        except TimeoutError as error:
            return 503, html.escape(str(error))
        return self._serve(server, request, upload)

    def _ready(self, namespace: str, name: str) -> Server:
        end = time.monotonic() + self.ready_seconds
        while True:
            try:
                claim = self.client.get(PersistentVolumeClaim, name, namespace=namespace)
            except ApiError:
                raise TimeoutError(f"rejecting Upload Request for PVC {name} that doesn't exist") from None
            annotations = claim.metadata.annotations or {}
            if TARGET not in annotations:
                raise TimeoutError(f"PVC {name} is not an upload target")
            if annotations.get(PHASE) == "Succeeded":
                raise TimeoutError(f"rejecting Upload Request for PVC {name} that already finished uploading")
            if annotations.get(CONTENT, "kubevirt") != "kubevirt":
                raise TimeoutError(f"rejecting upload request for PVC {name} - the double takes no archives")
            if annotations.get(READY) == "true" and claim.metadata.uid in self.servers:
                return self.servers[claim.metadata.uid]
            if time.monotonic() > end:
                raise TimeoutError("timed out waiting for the condition")
            time.sleep(0.05)

    def _serve(self, server: Server, request: Request, upload: Upload) -> tuple[int, str]:
        asynchronous = request.match[2] is not None
        if request.command == "HEAD" and asynchronous:
            return 200, ""
        if request.command != "POST":
            return 404, ""
        with server.lock:
            if server.busy or server.done:
                return (503 if server.busy else 409), ""
            server.busy = True
        fault = next((fault for fault in self.faults if fault.times > 0), UploadFault())
        fault.times -= 1
        if fault.status is not None:
            server.busy = False
            return fault.status, "the upload server is not well"
        try:
            convert = store(server, _counted(_part(request), upload, fault), asynchronous)
            if not asynchronous:
                self._process(server, convert, fault)
        except ConnectionAbortedError:
            server.busy = False
            return 0, ""
        except Exception as error:
            server.busy = False
            return _failure(error)
        if asynchronous:
            threading.Thread(target=self._process_behind, args=(server, convert, fault), daemon=True).start()
        return (0 if fault.lost else 200), ""

    def _process(self, server: Server, convert: bool, fault: UploadFault) -> None:
        """What comes after the last byte; the server then ends."""
        finish(server, convert)
        if fault.damage:
            fault.damage(server.volume.image)
        server.done, server.busy = True, False
        self.events.soon(self._say, server.claim, PHASE, "Succeeded", "false")

    def _process_behind(self, server: Server, convert: bool, fault: UploadFault) -> None:
        try:
            self._process(server, convert, fault)
        except Exception as error:
            # The pod ends with an error, of which its log is told, and is started again.
            server.restarts += 1
            server.log = f"E1 uploadserver.go:388] Error during resumed processing: {error}\n: exit status 1\n"
            self.events.soon(self._say, server.claim, PHASE, "Running", "false")
            server.busy = False
            self.events.later(0.2, self._say, server.claim, PHASE, "Running", "true")


def _failure(error: Exception) -> tuple[int, str]:
    if isinstance(error, NoCapacity) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        text = f"effective image size is larger than the reported available storage: {error}"
        return 400, f"Saving stream failed: {text}"
    return 500, f"Saving stream failed: {error}"


def _part(request: Request) -> Iterator[bytes]:
    """The image in the request: the body, or of a form the part "file"."""
    if not request.match[1]:
        return request.body()
    boundary = request.headers.get_boundary()
    form = b"".join(request.body())
    for part in form.split(b"--" + (boundary or "").encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return iter([content.removesuffix(b"\r\n")])
    raise EOFError("EOF")


def _counted(body: Iterator[bytes], upload: Upload, fault: UploadFault) -> Iterator[bytes]:
    """The body, until the fault."""
    for piece in body:
        upload.received += len(piece)
        time.sleep(fault.stall)
        fault.stall = 0.0
        if fault.cut is not None and upload.received >= fault.cut:
            raise ConnectionAbortedError
        if fault.full is not None and upload.received >= fault.full:
            raise OSError(errno.ENOSPC, "no space left on device")
        yield piece


class _Stream(io.RawIOBase):
    """An iterator of pieces as a file that is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        done = 0
        while done < len(buffer) and (self._rest or (more := next(self._pieces, b""))):
            self._rest = self._rest or memoryview(more)
            count = min(len(buffer) - done, len(self._rest))
            buffer[done : done + count], self._rest = self._rest[:count], self._rest[count:]
            done += count
        return done


def _opened(stream: IO[bytes]) -> tuple[bool, IO[bytes]]:
    """Whether the image is to be converted, and the image without a compression around it."""
    file = io.BufferedReader(stream, 1 << 20)
    head = file.peek(HEADER)[:HEADER]
    if len(head) < HEADER:
        raise EOFError("could not process image header: unexpected EOF")
    if head.startswith(GZIP):
        return _opened(gzip.GzipFile(fileobj=file))
    if head.startswith(XZ):
        convert, inner = _opened(lzma.LZMAFile(file))  # noqa: SIM115 - it has nothing to close
        if not convert and not any(inner.peek(HEADER)[:HEADER]):
            raise ValueError("could not process image header: xz of zeros")
        return convert, inner
    if head.startswith(ZSTD):
        raise ValueError("could not process image header: zstd")
    return any(head.startswith(magic, at) for at, magic in FORMATS.values()), file


def store(server: Server, body: Iterator[bytes], asynchronous: bool) -> bool:
    """Writes the body to the claim, or to scratch space where it is to be converted; whether that is so."""
    image = server.volume.image
    if not server.block:
        image.unlink(missing_ok=True)
    server.measure()
    convert, stream = _opened(_Stream(body))
    target = server.scratch if convert else image
    block = server.block and not convert
    try:
        _write(stream, target, server.asked if convert else server.available, block)
        if convert or asynchronous:
            _validate(target, server.available)
    except Exception:
        if not block:
            target.unlink(missing_ok=True)
        raise
    return convert


def _write(stream: IO[bytes], target: Path, room: int, block: bool) -> None:
    """Pieces of zeroes become holes of a file; data beyond the room finds no space."""
    zeroes = bytes(32 << 10)
    written = length = 0
    with open(target, "r+b" if block else "wb") as file:
        while piece := stream.read(32 << 10):
            if block or piece != zeroes[: len(piece)]:
                written += len(piece)
                if (length + len(piece) if block else written) > room:
                    raise OSError(errno.ENOSPC, "no space left on device")
                file.seek(length)
                file.write(piece)
            length += len(piece)
        if not block:
            file.truncate(length)
        file.flush()
        os.fsync(file.fileno())


def _validate(image: Path, available: int) -> None:
    """What qemu-img makes of an image, whose format it guesses as CDI has it do, has to fit."""
    found = _info(image)
    size, backing = found["virtual-size"], found.get("backing-filename")
    if found["format"] not in FORMATS and found["format"] != "raw":
        raise NoCapacity(f"Invalid format {found['format']} for image {image}")
    if backing and not Path(backing).exists():
        raise NoCapacity(f"Image {image} is invalid because it has invalid backing file {backing}")
    if size > available:
        told = f"virtual image size {size} is larger than the reported available storage {available}"
        raise NoCapacity(f"{told}. A larger PVC is required")


def _info(image: Path) -> Any:
    """What qemu-img says of an image whose format it guesses; CDI calls whatever it cannot open too large."""
    told = subprocess.run(["qemu-img", "info", "--output=json", image], check=False, capture_output=True)
    if told.returncode:
        raise NoCapacity(told.stderr.decode())
    return json.loads(told.stdout)


def finish(server: Server, convert: bool) -> None:
    """Converts what is in scratch space, and lets a file grow to what the claim has room for."""
    image = server.volume.image
    if convert:
        _validate(server.scratch, server.available)
        given = ["-n"] if server.block else []
        command = ["qemu-img", "convert", "-t", "writeback", *given, "-O", "raw", server.scratch, image]
        try:
            subprocess.run(command, check=True, capture_output=True)
        finally:
            server.scratch.unlink()
    if not server.block:
        usable = min(server.asked, math.ceil(server.available / (1 + OVERHEAD)) // ALIGNMENT * ALIGNMENT)
        if _info(image)["virtual-size"] < usable:
            # qemu-img does not make it smaller where the guest's bytes are taken for a smaller image.
            command = ["qemu-img", "resize", "-q", "-f", "raw", image, str(usable)]
            subprocess.run(command, check=True, capture_output=True)
        _validate(image, server.available)
        image.chmod(0o660)
        os.chown(image, 107, 107)
