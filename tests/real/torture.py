"""Applies a plan again and again, and kills it with -9 at points that a seed chooses; prints a JSON object.

Usage: python torture.py PLAN OUT CLAIM KILLS SEED BYTES, the claim's file below OUT and the bytes that its disk has.
Each run is a fork that has everything imported; a point is a count of bytes read and written, or a moment of the start.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import libvirt  # noqa: F401

from migrate import cli, journal
from migrate.transfer import _copy, file

FLUSH, CONNECTIONS = 4, 2


def apply(plan: Path, out: Path, log: Path) -> int:
    """Starts the command; small batches make for many points."""
    if pid := os.fork():
        return pid
    try:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
        _copy.FLUSH = FLUSH
        file.copy = partial(_copy.copy, connections=CONNECTIONS)
        sys.argv = ["kubevirt-migrate", "apply", str(plan), "--directory", str(out)]
        cli.main()
    except SystemExit as end:
        os._exit(end.code or 0)
    finally:
        os._exit(70)


def passed(pid: int) -> tuple[int, int]:
    """The bytes that a process, or what is left of it, has read and written with system calls."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


def ended(pid: int, wait: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | wait) is not None


def run_until(pid: int, chance: random.Random, size: int) -> None:
    """Waits for a point of the run, or its end; leaves it stopped or ended."""
    if chance.random() < 0.2:
        time.sleep(chance.random() * 0.2)
    else:
        point = chance.randrange(2 * size)
        while sum(passed(pid)) < point and not ended(pid, os.WNOHANG):
            time.sleep(0.0005)
    os.kill(pid, signal.SIGSTOP)
    ended(pid, os.WSTOPPED)


def main() -> None:
    plan, out, claim = map(Path, sys.argv[1:4])
    kills, seed, size = map(int, sys.argv[4:7])
    chance, killed, arrived, written, digests = random.Random(seed), 0, 0, 0, set()
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:  # short, for the sockets below it
        tempfile.tempdir, log = scratch, Path(scratch, "log")
        while True:
            pid = apply(plan, out, log)
            if killed < kills:
                run_until(pid, chance, size)
                os.kill(pid, signal.SIGKILL)
            ended(pid, 0)
            written += passed(pid)[1]
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status == -signal.SIGKILL:
                killed += 1
                continue
            if status:
                sys.exit(f"apply ended with {status}: {log.read_text()}")
            arrived += 1
            digests.add(hashlib.blake2b((out / claim).read_bytes()).hexdigest())
            if killed == kills:
                break
            shutil.rmtree(out)
            (plan / journal.NAME).unlink()
    print(json.dumps({"killed": killed, "arrived": arrived, "written": written, "digests": sorted(digests)}))


if __name__ == "__main__":
    main()
