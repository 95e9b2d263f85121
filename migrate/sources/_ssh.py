"""The files of a host over ssh, as libvirt reaches it: one ssh for each disk, with a shell there and qemu-nbd below it.

The shell takes one command a line. It ends qemu-nbd and removes its folder when the line is cut, or silent for long.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from migrate.mapping.paths import printable
from migrate.model import Image, Refused, Unfinished
from migrate.transfer import _bytes, _nbd

BEAT_SECONDS, PATIENCE_SECONDS = 15.0, 60  # a sign of life is sent; the shell waits for one
_CONNECT_SECONDS = 3.0  # the socket is there before the image is opened
_MOST = 1 << 24  # bytes of an answer
_WRITERS = 101  # byte that a QEMU with write permission locks: RAW_LOCK_PERM_BASE + 1 (QEMU block/file-posix.c)

# The login shell there may be any: one line without `!`. What a command prints comes back behind its lengths.
_SHELL = (
    "export LC_ALL=C TZ=UTC0; "
    'mkdir -m 700 "$1" && cd "$1" || exit 1; '
    'trap \'test -z "$server" || kill -9 $server 2>/dev/null; cd /; rm -rf "$1"\' EXIT; '
    'trap "exit 1" HUP INT TERM PIPE; '
    'while line=$(timeout "$2" sh -c \'IFS= read -r line && printf %s "$line"\'); do '
    'test -n "$line" || continue; '
    'eval "$line" >out 2>err </dev/null; '
    'printf "%s %s %s\\n" $? $(wc -c <out) $(wc -c <err); cat out err; '
    "done"
)


class NoServer(Refused):
    """The host has no qemu-nbd."""


def arguments(url: str) -> list[str]:
    """The ssh command for a libvirt URI up to the host, with the settings that libvirt's own connection has."""
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    host, port = _host_and_port(place)
    said = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    command = [said.get("command", "ssh")] if _transport(parts) == "ssh" else ["ssh"]
    # A connection that is shared with others would keep the forwarded socket when this one ends.
    options = ["BatchMode=yes", "ControlMaster=no", "ControlPath=none", f"ServerAliveInterval={BEAT_SECONDS:.0f}"]
    options += _plain_options(said) if _transport(parts) == "ssh" else _library_options(said)
    return [
        *command,
        *(["-p", port] if port else []),
        *(["-l", unquote(user)] if user else []),
        *(["-i", said["keyfile"]] if "keyfile" in said else []),
        "-T",
        *("-e", "none"),
        *(part for option in options for part in ("-o", option)),
        "--",
        unquote(host),
    ]


@contextmanager
def connected(url: str) -> Iterator[Remote]:
    """The files of the host behind a libvirt URI, by a connection of one's own.

    A host that lets nobody in is Refused, one that does not answer Unfinished.
    """
    with tempfile.TemporaryDirectory(prefix="kubevirt-migrate-") as name:
        # Its name is not to be foretold, and mkdir takes no folder that is there.
        there = f"/tmp/kubevirt-migrate-{secrets.token_hex(16)}"
        socket, log = Path(name, "nbd"), Path(name, "log")
        *ssh, dashes, host = arguments(url)
        shell = shlex.join(["sh", "-c", _SHELL, "sh", there, str(PATIENCE_SECONDS)])
        with log.open("wb") as errors:
            try:
                process = subprocess.Popen(
                    [*ssh, "-L", f"{socket}:{there}/nbd", dashes, host, shell],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                raise Refused(f"{ssh[0]!r} cannot be run: {error.strerror}; install openssh-client") from None
        remote = Remote(host, there, process, socket, log)
        ended = threading.Event()
        beat = threading.Thread(target=remote.beat, args=(ended,), name=f"ssh {host}", daemon=True)
        beat.start()
        try:
            remote.expect_server()
            yield remote
        finally:
            ended.set()
            remote.close()
            beat.join()


class Remote:
    """The files of another host (`migrate.transfer._bytes.Files`)."""

    def __init__(self, host: str, folder: str, process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
        self.host, self._folder, self._process, self._socket, self._log = host, folder, process, socket, log
        self._turn = threading.Lock()

    def real(self, path: str) -> str:
        status, out, _ = self._run("readlink", "-f", "--", path)
        return os.fsdecode(out.removesuffix(b"\n")) if status == 0 else path

    def entry(self, path: str) -> _bytes.Entry:
        found = self._answer(path, "stat", "-L", "-c", "%f %d %i %s %t %T %y", "--", path).decode(errors="replace")
        try:
            mode, device, inode, size, major, minor, changed = found.strip().split(maxsplit=6)
            kind, number = int(mode, 16), f"{int(major, 16)}:{int(minor, 16)}"
        except ValueError:
            raise Refused(f"{path!r} on {self.host}: its stat says {printable(found)!r}, not understood here") from None
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise Refused(f"{path!r} on {self.host} is neither a file nor a block device")
        written = ""
        if stat.S_ISBLK(kind):
            # The times of a device's node do not tell (kernel: block/stat); the seventh number is of sectors written.
            counts = self._answer(path, "cat", f"/sys/dev/block/{number}/stat")
            written = str(counts.split()[6:7])
        return _bytes.Entry(f"{device}/{inode}", stat.S_ISBLK(kind), (size, changed, inode, written))

    def read(self, path: str, offset: int, length: int) -> bytes:
        where = f"skip={offset}", f"count={length}", "iflag=skip_bytes,count_bytes"
        return self._answer(path, "dd", f"if={path}", "bs=64k", *where, "status=none")

    @contextmanager
    def serve(self, images: list[Image]) -> Iterator[str]:
        _nbd.library()
        self._refuse_in_use(images)
        options = _bytes.server_options(f"{self._folder}/nbd", images, self)
        start = f"{shlex.join(['qemu-nbd', *options])} >log 2>&1 & server=$!"
        wait = "until test -S nbd; do kill -0 $server || break; sleep 0.05; done"
        self._do(f"{start}; {wait}")
        uri = _bytes.unix_uri(self._socket)
        with self._first_connection(uri, images[0].path):
            yield uri

    def expect_server(self) -> None:
        """Refused unless the host lets us in and has qemu-nbd."""
        if self._run("command", "-v", "qemu-nbd")[0]:
            raise NoServer(f"{self.host} has no qemu-nbd: install there qemu-utils (Debian) or qemu-img (Fedora, SUSE)")

    def beat(self, ended: threading.Event) -> None:
        """Tells the shell from time to time that somebody is here, until `ended` is set."""
        while not ended.wait(BEAT_SECONDS):
            with self._turn, suppress(OSError):
                self._pipe(self._process.stdin).write(b"\n")
                self._pipe(self._process.stdin).flush()

    def close(self) -> None:
        """Ends the shell there, which ends what it began."""
        with suppress(OSError):
            self._pipe(self._process.stdin).close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()

    def _first_connection(self, uri: str, path: str) -> _nbd.Connection:
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                return _nbd.Connection(uri)
            except Unfinished:
                status, log, _ = self._do("kill -0 $server || { server=; cat log; false; }")
                if status:
                    raise Refused(
                        f"qemu-nbd on {self.host} does not serve {path!r}: {_reason(log)}{_todo(log)}"
                    ) from None
                if time.monotonic() > deadline:
                    raise Refused(
                        f"ssh to {self.host} forwards no sockets ({_reason(self._log.read_bytes())}): set "
                        "AllowStreamLocalForwarding and AllowTcpForwarding to yes in its sshd_config"
                    ) from None
                time.sleep(0.05)

    def _refuse_in_use(self, images: list[Image]) -> None:
        """Unfinished while a QEMU on that host writes to an image: its lock says so."""
        _, locks, _ = self._run("cat", "/proc/locks")
        writing = set(_writing(locks.decode(errors="replace")))
        for path in _bytes.paths(images):
            if self.entry(path).identity in writing:
                raise Unfinished(f"{path!r} on {self.host} is in use by a running machine: shut it off and run again")

    def _answer(self, path: str, *command: str) -> bytes:
        """What a command about a path prints; Refused with its last word where it fails."""
        status, out, errors = self._run(*command)
        if status:
            raise Refused(f"{path!r} on {self.host} cannot be read: {_reason(errors)}{_todo(errors)}")
        return out

    def _run(self, *command: str) -> tuple[int, bytes, bytes]:
        return self._do(shlex.join(command))

    def _do(self, line: str) -> tuple[int, bytes, bytes]:
        """Exit code, output and errors of a line of shell."""
        if re.search("[\n\0]", line):
            raise Refused(f"a path on {self.host} has a line break in it: rename the image ({printable(line, 200)})")
        try:
            with self._turn:
                stdin, stdout = self._pipe(self._process.stdin), self._pipe(self._process.stdout)
                stdin.write(os.fsencode(line) + b"\n")
                stdin.flush()
                status, *lengths = (int(word) for word in stdout.readline(100).split())
                if not all(0 <= length <= _MOST for length in lengths):
                    raise ValueError("no command here answers so much")
                out, errors = (stdout.read(length) for length in lengths)
                if [len(out), len(errors)] == lengths:
                    return status, out, errors
                raise EOFError
        except (OSError, ValueError, EOFError):
            raise self._lost() from None

    def _lost(self) -> Refused | Unfinished:
        """Why there is no shell any more, or never was."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        said = self._log.read_bytes()
        reason = f"ssh to {self.host}: {_reason(said)}"
        if b"Host key verification failed" in said:
            return Refused(f"{reason}; compare the host's key, and add it to known_hosts with `ssh` once")
        if b"Permission denied" in said:
            return Refused(
                f"{reason}; it asks for nothing here: put your key there (ssh-copy-id) or into the ssh agent"
            )
        return Unfinished(f"{reason}; run again when the host answers")

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None
        return stream


def _transport(parts: SplitResult) -> str:
    return parts.scheme.partition("+")[2]


def _host_and_port(place: str) -> tuple[str, str]:
    """A URI's host, without the brackets of an IPv6 address, and its port or nothing."""
    found = re.fullmatch(r"(?:\[(.*)\]|([^:]*))(?::(\d*))?", place)
    if not found or not (found[1] or found[2]):
        raise Refused(f"{printable(place)!r} names no host: correct the URI and collect again")
    return found[1] or found[2], found[3] or ""


def _plain_options(said: dict[str, str]) -> list[str]:
    """What libvirt says to the program ssh (virNetSocketNewConnectSSH)."""
    return ["StrictHostKeyChecking=no"] if said.get("no_verify", "0") != "0" else []


def _library_options(said: dict[str, str]) -> list[str]:
    """What libvirt says to libssh and libssh2 (virNetClientNewLibssh), in the words of ssh."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    known = said.get("known_hosts", os.path.join(home, "libvirt", "known_hosts"))
    verify = {"auto": "accept-new", "ignore": "no"}.get(said.get("known_hosts_verify", "normal").lower(), "yes")
    options = [
        f"StrictHostKeyChecking={verify}",
        f'UserKnownHostsFile="{"/dev/null" if verify == "no" else known}"',
        "GlobalKnownHostsFile=none",
    ]
    if "agent" not in said.get("sshauth", "agent").lower().split(","):
        options.append("IdentityAgent=none")
    return options


def _writing(locks: str) -> Iterator[str]:
    """Device and inode, as in an Entry, of the images that a QEMU writes: `/proc/locks` (proc(5)) has its locks."""
    for row in locks.splitlines():
        found = re.search(r" OFDLCK .* ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)$", row)
        if found and int(found[4]) <= _WRITERS and (found[5] == "EOF" or int(found[5]) >= _WRITERS):
            yield f"{os.makedev(int(found[1], 16), int(found[2], 16))}/{found[3]}"


def _reason(said: bytes) -> str:
    """The last line that a program said."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return printable(re.sub(r"^[\w-]+: ", "", lines[-1]) if lines else "it gave no reason", 500)


def _todo(said: bytes) -> str:
    denied = b"Permission denied" in said
    return "; log in as root there, or as a user who may read the images" if denied else ""
