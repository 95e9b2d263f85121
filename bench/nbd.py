"""Times the copy of a 4 GiB qcow2 with 30 % of data from one qemu-nbd to another, hashed, journalled and flushed.

Usage, from the checkout: python -m bench.nbd [FOLDER]; FOLDER, by default the temporary one, needs 5 GiB of room.
The reference is `nbdcopy --flush` with a BLAKE2b of the same bytes beside it, in interleaved rounds. The goals are at
most 1.1 of its time, and at most 0.6 of it more for the read-back, which reads the target itself, as beside a claim.
Through qemu-nbd, whose one thread sends no faster than nbdcopy takes it, reading back is shown without a goal.
"""

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench.parts import GIB, MIB, copy, image, nbdcopy, seconds, target, tell
from migrate.model import Image
from migrate.transfer import _bytes, _copy

ROUNDS, GOAL, READ_BACK_GOAL = 7, 1.1, 0.6
SIZE, PIECES, PIECE = 4 * GIB, 16, 77 * MIB


def main() -> None:
    """Prints each round, then the medians of the ratios."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        path = image(folder / "source.qcow2", SIZE, PIECES, PIECE)
        sink, data = folder / "target", path.with_suffix(".data")
        rounds = []
        with _bytes.serve([Image(str(path), "qcow2")]) as source:
            for number in range(1, ROUNDS + 1):
                with target(sink, SIZE) as uri:
                    hashed = seconds(partial(nbdcopy, source, uri, data))
                with target(sink, SIZE) as uri:
                    bare = seconds(partial(nbdcopy, source, uri, None))
                with target(sink, SIZE) as uri:
                    ours = seconds(partial(copy, source, uri, folder / "journal"))
                    with sink.open("rb") as file:
                        read_back = seconds(partial(_copy.read_back, file.fileno(), SIZE))
                    by_nbd = seconds(partial(_copy.read_export, uri))
                rounds.append((ours / hashed, ours / bare, read_back / hashed, by_nbd / hashed))
                print(
                    f"round {number}: nbdcopy {bare:.2f} s, with BLAKE2b {hashed:.2f} s; "
                    f"copy {ours:.2f} s, read-back {read_back:.2f} s, by NBD {by_nbd:.2f} s",
                    flush=True,
                )
    to_hashed, to_bare, read_back, by_nbd = map(statistics.median, zip(*rounds, strict=True))
    tell("copy / nbdcopy with BLAKE2b", to_hashed, GOAL)
    print(f"copy / nbdcopy: {to_bare:.2f} (no goal)")
    tell("read-back / nbdcopy with BLAKE2b", read_back, READ_BACK_GOAL)
    print(f"read-back by NBD / nbdcopy with BLAKE2b: {by_nbd:.2f} (no goal)")


if __name__ == "__main__":
    main()
