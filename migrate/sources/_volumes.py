"""The files of a host through its storage pools: libvirt sends volumes over the connection it has."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import IO, Any

from lxml import etree

from migrate.model import Image, Refused, Unfinished
from migrate.transfer import _bytes

_FILE, _BLOCK = 0, 1  # virStorageVolType


def spool_folder() -> str:
    """Where volumes are kept while they are read: `$TMPDIR`, or where large files may lie."""
    return os.environ.get("TMPDIR") or "/var/tmp"


class Volumes:
    """The volumes of a host's active pools (`migrate.transfer._bytes.Files`); `connection` may write.

    `explain` makes one line of an error of libvirt.
    """

    def __init__(self, connection: Any, host: str, library: Any, explain: Callable[[Exception], str]) -> None:
        self._connection, self._host, self._library, self._explain = connection, host, library, explain

    def real(self, path: str) -> str:
        return os.path.normpath(path)

    def entry(self, path: str) -> _bytes.Entry:
        volume = self._volume(path)
        with self._refused(path):
            kind, tree = volume.info()[0], etree.fromstring(volume.XMLDesc(0), _PARSER)
        if kind not in (_FILE, _BLOCK):
            raise Refused(f"{path!r} on {self._host} is neither a file nor a block device")
        facts = tuple(tree.findtext(name) or "" for name in ("capacity", "allocation", "physical", _CHANGED))
        return _bytes.Entry(volume.key(), kind == _BLOCK, facts)

    def read(self, path: str, offset: int, length: int) -> bytes:
        with tempfile.TemporaryFile() as file, self._refused(path):
            self._receive(self._volume(path), file, offset, length, 0)
            return os.pread(file.fileno(), length, 0)

    @contextmanager
    def serve(self, images: list[Image]) -> Iterator[str]:
        self._refuse_without_room(images)
        with ExitStack() as stack:
            here = {path: stack.enter_context(self._taken_over(path)) for path in _bytes.paths(images)}
            spooled = [
                replace(image, path=here[image.path], data_file=image.data_file and here[image.data_file])
                for image in images
            ]
            yield stack.enter_context(_bytes.serve(spooled))

    def _refuse_without_room(self, images: list[Image]) -> None:
        needed = 0
        for path in _bytes.paths(images):
            with self._refused(path):
                needed += self._volume(path).info()[2]
        room = os.statvfs(spool_folder())
        if room.f_bavail * room.f_frsize < needed:
            raise Refused(
                f"{images[0].path!r} on {self._host} is taken over whole before it is read, and {spool_folder()} "
                f"has no room for {needed} bytes: make room, or set TMPDIR to a folder that has it"
            )

    @contextmanager
    def _taken_over(self, path: str) -> Iterator[str]:
        """A copy without a name, so that nothing is left of it whatever ends this process."""
        with tempfile.TemporaryFile(dir=spool_folder()) as file:
            try:
                flags = self._library.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM
                self._receive(self._volume(path), file, 0, 0, flags)
            except self._library.libvirtError as error:
                raise Unfinished(f"{path!r} on {self._host}: {self._explain(error)}; run again") from None
            except OSError as error:
                raise Unfinished(f"{spool_folder()}: {error.strerror}; make room and run again") from None
            yield f"/proc/{os.getpid()}/fd/{file.fileno()}"

    def _receive(self, volume: Any, file: IO[bytes], offset: int, length: int, flags: int) -> None:
        """Writes a volume's bytes from `offset` on to a file; no length is all of them."""
        stream = self._connection.newStream()
        end = 0

        def data(_stream: Any, part: bytes, _opaque: object) -> None:
            nonlocal end
            while part:
                count = os.pwrite(file.fileno(), part, end)
                end, part = end + count, part[count:]

        def hole(_stream: Any, length: int, _opaque: object) -> None:
            nonlocal end
            end += length

        try:
            volume.download(stream, offset, length, flags)
            stream.sparseRecvAll(data, hole, None)
            stream.finish()
        except BaseException:
            with suppress(self._library.libvirtError):
                stream.abort()
            raise
        os.ftruncate(file.fileno(), end)

    def _volume(self, path: str) -> Any:
        with self._refused(path):
            return self._connection.storageVolLookupByPath(path)

    @contextmanager
    def _refused(self, path: str) -> Iterator[None]:
        try:
            yield
        except self._library.libvirtError as error:
            raise Refused(
                f"{path!r} on {self._host}: {self._explain(error)}; it has to be a volume of an active pool "
                "(virsh pool-refresh), and the connection one that may write"
            ) from None


_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)
_CHANGED = "target/timestamps/mtime"
