"""NBD servers of tests: nbdkit, for what qemu-nbd never does."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nbdkit(*arguments: str, writable: bool = False) -> Iterator[tuple[str, subprocess.Popen]]:
    """The URI of a server, and the server."""
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/nbd"
        access = [] if writable else ["-r"]
        server = subprocess.Popen(["nbdkit", "-f", *access, "-U", socket, "-P", f"{folder}/pid", *arguments])
        try:
            while not os.path.exists(f"{folder}/pid"):
                assert server.poll() is None
            yield f"nbd+unix:///?socket={socket}", server
        finally:
            server.terminate()
            server.wait()
