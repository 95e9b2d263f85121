"""Times the copy of 8 disks, 4 at a time, from qemu-nbd to qemu-nbd against `nbdcopy --flush`, 4 at a time as well.

Usage, from the checkout: python -m bench.jobs [FOLDER]; FOLDER, by default the temporary one, needs 6 GiB of room.
Beside each nbdcopy runs a BLAKE2b of the same bytes. The goal is a ratio of at most 1.1.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench.parts import GIB, MIB, copy, image, nbdcopy, seconds, target, tell
from migrate.model import Image
from migrate.transfer import _bytes

ROUNDS, GOAL = 5, 1.1
DISKS, JOBS = 8, 4
SIZE, PIECES, PIECE = GIB, 16, 19 * MIB

Pair = tuple[str, str, Path]  # where from, where to, and a path for what belongs to the disk


def time_all(folder: Path, sources: list[str], one: Callable[[Pair], None]) -> float:
    """Seconds that all disks take, onto new targets."""
    with ExitStack() as stack:
        sinks = [stack.enter_context(target(folder / f"target{number}", SIZE)) for number in range(DISKS)]
        disks = [folder / f"journal{number}" for number in range(DISKS)]
        with ThreadPoolExecutor(JOBS) as pool:
            return seconds(lambda: list(pool.map(one, zip(sources, sinks, disks, strict=True))))


def main() -> None:
    """Prints each round, then the medians of the ratios."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name, ExitStack() as stack:
        folder = Path(name)
        path = image(folder / "source.qcow2", SIZE, PIECES, PIECE)
        data = path.with_suffix(".data")
        sources = [stack.enter_context(_bytes.serve([Image(str(path), "qcow2")])) for _ in range(DISKS)]
        rounds = []
        for number in range(1, ROUNDS + 1):
            hashed = time_all(folder, sources, lambda pair: nbdcopy(pair[0], pair[1], data))
            bare = time_all(folder, sources, lambda pair: nbdcopy(pair[0], pair[1], None))
            ours = time_all(folder, sources, lambda pair: copy(*pair))
            rounds.append((ours / hashed, ours / bare))
            print(f"round {number}: nbdcopy {bare:.2f} s, with BLAKE2b {hashed:.2f} s; copy {ours:.2f} s", flush=True)
    to_hashed, to_bare = map(statistics.median, zip(*rounds, strict=True))
    tell(f"{DISKS} disks, {JOBS} at a time, copy / nbdcopy with BLAKE2b", to_hashed, GOAL)
    print(f"{DISKS} disks, {JOBS} at a time, copy / nbdcopy: {to_bare:.2f} (no goal)")


if __name__ == "__main__":
    main()
