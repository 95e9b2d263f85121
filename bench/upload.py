"""Counts the bytes that an upload of a 64 GiB disk with 1 GiB of data sends.

Usage, from the checkout: python -m bench.upload [FOLDER]; FOLDER, by default the temporary one, needs 3 GiB of room.
The goal is at most 1.02 of the data, and 1 MiB of tables.
"""

import sys
import tempfile
from pathlib import Path

from bench.parts import GIB, MIB, image, tell
from migrate.model import Image
from migrate.transfer import _bytes, _stream

SIZE, PIECES, PIECE = 64 * GIB, 1024, MIB
DATA = PIECES * PIECE


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        path = image(Path(name, "source.qcow2"), SIZE, PIECES, PIECE)
        with _bytes.serve([Image(str(path), "qcow2")]) as uri:
            sent = sum(len(piece) for piece in _stream.qcow2(uri))
    print(f"upload: {sent / MIB:.1f} MiB for {DATA // MIB} MiB of data in {SIZE // GIB} GiB: {sent / DATA:.4f}")
    tell("upload: bytes sent / (1.02 of the data + 1 MiB)", sent / (1.02 * DATA + MIB), 1.0)


if __name__ == "__main__":
    main()
