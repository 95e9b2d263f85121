"""Measures the peak of memory while a sparse disk of 1 TiB is copied to a file, read back and streamed.

Usage, from the checkout: python -m bench.memory [FOLDER]; FOLDER, by default the temporary one, needs 2 GiB of room.
The goal is at most 256 MB.
"""

import os
import sys
import tempfile
from pathlib import Path

from bench.copy import move
from bench.parts import GIB, MIB, image, tell
from migrate.model import Image
from migrate.transfer import _bytes, _stream

SIZE, PIECES, PIECE = 1024 * GIB, 512, MIB
GOAL = 256


def peak(source: Path, folder: Path) -> float:
    """The most memory, in MB, that a process of its own holds at a time."""
    if pid := os.fork():
        _, status, usage = os.wait4(pid, 0)
        if status:
            raise SystemExit("the copy failed")
        return usage.ru_maxrss * 1024 / 1e6
    try:
        move(source, SIZE, folder)
        with _bytes.serve([Image(str(source), "qcow2")]) as uri:
            for _ in _stream.qcow2(uri):
                pass
        os._exit(0)
    finally:
        os._exit(1)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        found = peak(image(folder / "source.qcow2", SIZE, PIECES, PIECE), folder)
    print(f"memory: {found:.0f} MB at most for a disk of {SIZE // GIB} GiB with {PIECES * PIECE // MIB} MiB of data")
    tell(f"memory: peak / {GOAL} MB", found / GOAL, 1.0)


if __name__ == "__main__":
    main()
