"""Times the copy of a 4 GiB qcow2 with 1 GiB of data to raw against `qemu-img convert`, both with fsync.

Usage, from the checkout: python -m bench.copy [FOLDER]; FOLDER, by default the temporary one, needs 5 GiB of room.
The goal is a ratio of at most 1.3.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.parts import GIB, MIB, image, tell
from migrate import journal
from migrate.model import PlannedDisk
from migrate.transfer import _bytes, file

ROUNDS, GOAL = 7, 1.3
SIZE, PIECES, PIECE = 4 * GIB, 16, 64 * MIB


def time_qemu_img(source: Path, folder: Path, *options: str) -> float:
    """Seconds that qemu-img and an fsync of its output take."""
    target = folder / "qemu-img.raw"
    started = time.monotonic()
    subprocess.run(["qemu-img", "convert", *options, "-f", "qcow2", "-O", "raw", source, target], check=True)
    descriptor = os.open(target, os.O_RDWR)
    os.fsync(descriptor)
    seconds = time.monotonic() - started
    os.close(descriptor)
    target.unlink()
    return seconds


def move(source: Path, size: int, folder: Path) -> tuple[float, float]:
    """Moves a qcow2; seconds of all but the read-back (server, journal and fsync included), and of the read-back."""
    out = folder / "out"
    disk = PlannedDisk("vda", "default", "bench", ["file"], str(source), "qcow2", size, None, None)
    started = time.monotonic()
    with (
        journal.opened(folder / "journal.jsonl") as record,
        _bytes.opened(_bytes.chain(str(source), "qcow2", [])) as opened,
    ):
        cluster = file.DirectoryTarget(out)
        step = record.step("bench", "vda", cluster.name, opened.stamp)
        evidence = file.move(opened, disk, cluster, step)
        step.end(evidence)
    seconds = time.monotonic() - started
    (out / "default/bench/disk.img").unlink()
    (folder / "journal.jsonl").unlink()
    return seconds - evidence.read_back_seconds, evidence.read_back_seconds


def main() -> None:
    """Prints each round, then the medians."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        source = image(folder / "source.qcow2", SIZE, PIECES, PIECE)
        ratios, direct_ratios, read_backs = [], [], []
        for number in range(1, ROUNDS + 1):
            theirs, direct = time_qemu_img(source, folder), time_qemu_img(source, folder, "-t", "none")
            ours, read_back = move(source, SIZE, folder)
            ratios.append(ours / theirs)
            direct_ratios.append(ours / direct)
            read_backs.append(read_back / ours)
            print(
                f"round {number}: qemu-img {theirs:.2f} s, with -t none {direct:.2f} s; "
                f"copy {ours:.2f} s, read-back {read_back:.2f} s",
                flush=True,
            )
    tell("copy / qemu-img convert", statistics.median(ratios), GOAL)
    print(f"copy / qemu-img convert -t none: {statistics.median(direct_ratios):.2f} (no goal)")
    print(f"read-back / copy: {statistics.median(read_backs):.2f}")


if __name__ == "__main__":
    main()
