"""Any disk as NBD: what an image says of itself, which files it may reach, and qemu-nbd that serves it read-only.

Formats are declared, by the domain or by the qcow2 header above, and never probed. The layout of the headers:
QEMU docs/interop/qcow2.txt; VMware's "Virtual Disk Format 5.0" for vmdk.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from migrate.model import Image, Refused, Unfinished, short_hash
from migrate.transfer import _nbd
from migrate.transfer._throttle import Throttle

MAX_CHAIN = 64
CLIENTS = 16  # connections that qemu-nbd accepts at a time
_START_SECONDS = 30.0
_ALONE = ("raw", "vdi", "vhdx", "vmdk", "vpc")  # with "backing": null these read one file and no other
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_DATA_FILE_RAW = 1 << 1  # autoclear
_BACKING_FORMAT, _DATA_FILE_NAME, _BITMAPS = 0xE2792ACA, 0x44415441, 0x23852875
_WRITERS = 101  # byte that a QEMU with write permission locks: RAW_LOCK_PERM_BASE + 1 (QEMU block/file-posix.c)


@dataclass(slots=True)
class Header:
    """What a qcow2 header says: `size` is the virtual size in bytes, names are as written there."""

    size: int
    backing_file: str | None
    backing_format: str | None
    data_file: str | None
    data_file_raw: bool
    encrypted: bool
    corrupt: bool
    snapshots: int
    bitmaps: int


@dataclass(slots=True)
class Opened:
    """A disk that is served: where, how many bytes, and a stamp that is equal only while its files are unchanged.

    Each of `checks` raises Unfinished when the bytes may have changed since the disk was opened. `throttle` says how
    fast its bytes may be read.
    """

    uri: str
    size: int
    stamp: str
    checks: list[Callable[[], None]] = field(default_factory=list)
    throttle: Throttle | None = None

    def check(self) -> None:
        """Raises what the first failing check raises."""
        for check in self.checks:
            check()


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or block device: all its names lead to one `identity`; `facts` are the same while it is unchanged."""

    identity: str
    block: bool
    facts: tuple[str, ...]


class Files(Protocol):
    """The files of one machine. What is missing, not allowed, or neither a file nor a block device is Refused."""

    def real(self, path: str) -> str:
        """The path without links; what does not exist keeps its name."""

    def entry(self, path: str) -> Entry:
        """What a path leads to now."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """The bytes there; fewer at the end of the file."""

    def serve(self, images: list[Image]) -> AbstractContextManager[str]:
        """Serves a chain read-only and yields its NBD URI; a chain that is being written is Unfinished."""


class NotAllowed(Refused):
    """A file that this user may not read."""


class Local:
    """The files of this machine."""

    def real(self, path: str) -> str:
        return os.path.realpath(path)

    def entry(self, path: str) -> Entry:
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
            raise Refused(f"{path!r} is neither a file nor a block device")
        facts = str(found.st_size), str(found.st_mtime_ns), str(found.st_ino), _sectors_written(found)
        return Entry(f"{found.st_dev}/{found.st_ino}", stat.S_ISBLK(found.st_mode), facts)

    def read(self, path: str, offset: int, length: int) -> bytes:
        try:
            with open(path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), length, offset)
        except OSError as error:
            raise _unreadable(path, error) from None
        except OverflowError:
            return b""

    def serve(self, images: list[Image]) -> AbstractContextManager[str]:
        return serve(images)


_LOCAL = Local()


def _unreadable(path: str, error: OSError | ValueError) -> Refused:
    kind = NotAllowed if isinstance(error, PermissionError) else Refused
    return kind(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}")


def header(path: str, files: Files = _LOCAL) -> Header:
    """The header of a qcow2 file; Refused where it is none, is damaged or needs a feature unknown here."""
    start = files.read(path, 0, 104)
    if len(start) < 72 or start[:4] != b"QFI\xfb":
        raise Refused(f"{path!r} is declared qcow2 and has no qcow2 header: correct the driver type of the disk")
    version, backing_at, backing_length, cluster_bits, size, encryption = struct.unpack(">IQIIQI", start[4:36])
    if version not in (2, 3) or not 9 <= cluster_bits <= 21 or (version == 3 and len(start) < 104):
        raise Refused(f"{path!r} has a damaged qcow2 header, or one of unknown version {version}: `qemu-img check` it")
    incompatible, _, autoclear, _, length = struct.unpack(">QQQII", start[72:104]) if version == 3 else (0, 0, 0, 0, 72)
    cluster = files.read(path, 0, 1 << cluster_bits)
    if incompatible & ~_KNOWN:
        raise Refused(f"{path!r} has incompatible qcow2 features {incompatible & ~_KNOWN:#x}, unknown here: convert it")
    name = None
    if backing_at:
        if not 1 <= backing_length <= 1023 or backing_at + backing_length > len(cluster):
            raise Refused(f"{path!r} has a damaged qcow2 header: its backing file name lies outside of it")
        name = _text(path, cluster[backing_at : backing_at + backing_length])
    found = dict(_extensions(path, cluster, length, backing_at or len(cluster)))
    extensions = {kind: _text(path, found[kind]) for kind in (_BACKING_FORMAT, _DATA_FILE_NAME) if kind in found}
    if incompatible & _DATA_FILE and _DATA_FILE_NAME not in extensions:
        raise Refused(f"{path!r} keeps its data in another file and does not name it: convert it with qemu-img")
    return Header(
        size=size,
        backing_file=name,
        backing_format=extensions.get(_BACKING_FORMAT),
        data_file=extensions.get(_DATA_FILE_NAME) if incompatible & _DATA_FILE else None,
        data_file_raw=bool(autoclear & _DATA_FILE_RAW),
        encrypted=encryption != 0,
        corrupt=bool(incompatible & _CORRUPT),
        snapshots=struct.unpack(">I", start[60:64])[0],
        bitmaps=int.from_bytes(found.get(_BITMAPS, b"")[:4], "big"),
    )


def chain(path: str, format: str | None, allowed: list[str], files: Files = _LOCAL) -> list[Image]:
    """The image and all it reads, top first, with resolved paths: exactly what will be served.

    `format` is the top's as its domain declares it, None meaning raw. Backing and data files must lie in one of the
    `allowed` folders or beside the top image; anything else is Refused.
    """
    if not os.path.isabs(path):
        raise Refused(f"{path!r} is not an absolute path")
    own = {os.path.dirname(files.real(path)), files.real(os.path.dirname(path))}
    folders = [files.real(folder) for folder in allowed]
    images: list[Image] = []
    seen: set[str] = set()
    named, declared = path, format or "raw"
    while True:
        found = files.entry(named).identity
        if found in seen:
            raise Refused(f"the backing chain of {path!r} comes back to {named!r}: a loop")
        seen.add(found)
        if len(seen) > MAX_CHAIN:
            raise Refused(
                f"the backing chain of {path!r} has more than {MAX_CHAIN} images: shorten it, `qemu-img rebase`"
            )
        image = Image(files.real(named), declared)
        images.append(image)
        if declared != "qcow2":
            _stands_alone(named, declared, files)
            return images
        head = header(image.path, files)
        _readable(named, head)
        if named == path and not head.size:
            raise Refused(f"{path!r} has 0 bytes: take the disk out of the domain, or make its image anew")
        image.snapshots, image.bitmaps = head.snapshots, head.bitmaps
        if head.data_file is not None:
            image.data_file = files.real(_reached(named, head.data_file, own, folders, files))
            files.entry(image.data_file)
        if head.backing_file is None:
            return images
        if not head.backing_format:
            raise Refused(
                f"{named!r} does not name the format of its backing file: "
                f"`qemu-img rebase -u -b BACKING -F FORMAT` writes it into the header"
            )
        named, declared = _reached(named, head.backing_file, own, folders, files), head.backing_format


def stamp(images: list[Image], files: Files = _LOCAL) -> str:
    """A hash of path, size, times and inode of every file of a chain; writes to block devices count as well."""
    facts = []
    for path in paths(images):
        try:
            facts += [path, *files.entry(path).facts]
        except Refused as refusal:
            raise Unfinished(f"an image is gone: {refusal}; bring it back and run again") from None
    return short_hash(*facts, digits=32)


@contextmanager
def serve(images: list[Image], *, clients: int = CLIENTS) -> Iterator[str]:
    """Serves a chain read-only with qemu-nbd and yields its NBD URI; one connection is held, for it ends with the last.

    The kernel ends it too when this process is killed, also before there is a connection: a server that is left would
    keep the guest from starting.
    """
    for program, package in (("qemu-nbd", "qemu-utils"), ("setpriv", "util-linux")):
        if not shutil.which(program):
            raise Refused(f"{program} is missing: install the Debian package {package}")
    _nbd.library()
    for path in paths(images):
        _refuse_in_use(path)
    with tempfile.TemporaryDirectory(prefix="kubevirt-migrate-") as folder:
        socket, log = Path(folder, "nbd"), Path(folder, "log")
        command = ["setpriv", "--pdeathsig", "KILL", "qemu-nbd", *server_options(str(socket), images, clients=clients)]
        with log.open("wb") as errors:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )
        try:
            uri = unix_uri(socket)
            with _first_connection(server, uri, log, images[0].path):
                yield uri
        finally:
            server.kill()
            server.wait()


def server_options(socket: str, images: list[Image], files: Files = _LOCAL, *, clients: int = CLIENTS) -> list[str]:
    """What qemu-nbd is called with to serve a chain, with a connection to spare."""
    return [
        "--read-only",
        f"--shared={clients + 1}",
        f"--socket={socket}",
        "json:" + json.dumps(graph(images, files)),
    ]


def unix_uri(socket: Path) -> str:
    """The NBD URI of a socket."""
    return f"nbd+unix:///?socket={quote(str(socket))}"


@contextmanager
def opened(images: list[Image], files: Files = _LOCAL) -> Iterator[Opened]:
    """A served chain with its size and its stamp; its check fails once one of the files has changed."""
    before = stamp(images, files)

    def unchanged() -> None:
        if stamp(images, files) != before:
            raise Unfinished(
                f"{images[0].path!r} or an image below it changed during the copy: run again to start anew"
            )

    with files.serve(images) as uri:
        yield Opened(uri, size(uri), before, [unchanged])


def size(uri: str) -> int:
    """The virtual size of an export, in bytes."""
    with _nbd.Connection(uri) as connection:
        return connection.size


def graph(images: list[Image], files: Files = _LOCAL) -> dict[str, Any]:
    """The block device tree of a chain as QEMU's blockdev-add takes it: every node named, so that none is followed."""
    image, *below = images
    node = {"driver": image.format, "read-only": True, "file": _file(image.path, files)}
    if image.format in ("qcow2", "vmdk"):
        node["backing"] = graph(below, files) if below else None
    if image.data_file is not None:
        node["data-file"] = _file(image.data_file, files)
    return node


def _file(path: str, files: Files) -> dict[str, Any]:
    driver = "host_device" if files.entry(path).block else "file"
    return {"driver": driver, "filename": path, "read-only": True}


def paths(images: list[Image]) -> list[str]:
    """Every file of a chain."""
    return [path for image in images for path in (image.path, image.data_file) if path is not None]


@contextmanager
def _first_connection(server: subprocess.Popen, uri: str, log: Path, path: str) -> Iterator[None]:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        ended = server.poll() is not None
        try:
            connection = _nbd.Connection(uri)
            break
        except Unfinished:
            if ended or time.monotonic() > deadline:
                raise Unfinished(f"qemu-nbd does not serve {path!r}: {_last_line(log)}") from None
            time.sleep(0.01)
    with connection:
        yield


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    text = next((line for line in reversed(lines) if line.strip()), "it gave no reason")
    return "".join(character for character in text.removeprefix("qemu-nbd: ") if character.isprintable())[:500]


def _text(path: str, raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise Refused(f"{path!r} names a file or format that is not printable text: {raw[:64]!r}")
    return text


def _extensions(path: str, cluster: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The header extensions; they lie between the header and the backing file name."""
    while start + 8 <= end:
        kind, length = struct.unpack(">II", cluster[start : start + 8])
        if kind == 0:
            return
        if length > end - start - 8:
            raise Refused(f"{path!r} has a damaged qcow2 header: an extension runs out of it")
        yield kind, cluster[start + 8 : start + 8 + length]
        start += 8 + -(-length // 8) * 8


def _readable(path: str, head: Header) -> None:
    if head.encrypted:
        raise Refused(f"{path!r} is encrypted: decrypt it with `qemu-img convert` and point the domain to the result")
    if head.corrupt:
        raise Refused(f"{path!r} is marked corrupt: repair it with `qemu-img check -r all`")


def _reached(by: str, name: str, own: set[str], folders: list[str], files: Files) -> str:
    """The absolute path of a name in a header, relative to the folder of the image that has it."""
    if ":" in name.split("/", 1)[0]:  # QEMU takes this for a protocol or for json: (path_has_protocol in block.c)
        # The name can hold a password.
        raise Refused(f"{by!r} points to a {name.partition(':')[0]}: address, not to a file: rebase it onto a file")
    path = os.path.join(os.path.dirname(os.path.normpath(by)), name)
    real = files.real(path)
    if os.path.dirname(real) not in own and not any(Path(real).is_relative_to(folder) for folder in folders):
        raise Refused(
            f"{by!r} points to {real!r}, outside of the pools and of its own folder: "
            f"add {os.path.dirname(real)!r} to `images:` in the site file if that is right"
        )
    return path


def refuse_unserved(path: str, format: str) -> None:
    """Refused for an image of a format that is not served."""
    if format not in ("qcow2", *_ALONE):
        raise Refused(f"{path!r} has format {format!r}, which is not served: convert it to qcow2 with qemu-img")


def _stands_alone(path: str, format: str, files: Files) -> None:
    """Refused unless an image of this format, not qcow2, is whole in its one file."""
    refuse_unserved(path, format)
    if format != "vmdk":
        return
    start = files.read(path, 0, 512)
    magic, _, _, capacity, _, at, sectors = struct.unpack("<4sIIQQQQ", start[:44]) if len(start) == 512 else (b"",) * 7
    if magic != b"KDMV" or not capacity or not 0 < sectors <= 2048:
        raise Refused(f"{path!r} is a vmdk that keeps its data in other files: convert it to qcow2 with qemu-img")
    descriptor = files.read(path, at * 512, sectors * 512).lower().replace(b" ", b"")
    if b"\nparentcid=ffffffff" not in descriptor:
        raise Refused(f"{path!r} is a vmdk with a parent image: convert it to qcow2 with qemu-img")


def _refuse_in_use(path: str) -> None:
    """Unfinished while a QEMU that writes has the image open: its lock says so (all QEMU since 2.10 take it)."""
    try:
        with open(path, "rb", buffering=0) as file:
            query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _WRITERS, 1, 0)
            kind = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_OFD_GETLK, query))[0]
    except OSError as error:
        raise Refused(f"{path!r} cannot be read: {error.strerror}") from None
    if kind != fcntl.F_UNLCK:
        raise Unfinished(f"{path!r} is in use by a running machine: shut it off and run again")


def _sectors_written(entry: os.stat_result) -> str:
    """Sectors written to a block device since it appeared: the times of its node do not tell (kernel: block/stat)."""
    if not stat.S_ISBLK(entry.st_mode):
        return ""
    device = f"{os.major(entry.st_rdev)}:{os.minor(entry.st_rdev)}"
    return Path("/sys/dev/block", device, "stat").read_text().split()[6]
