"""Method `file` from a real qcow2 to a claim: proof, faults, and kill -9 at every kind of point."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate import journal
from migrate.model import Evidence, Mismatch, PlannedDisk, Refused, Unfinished
from migrate.transfer import _bytes, file
from migrate.transfer._digest import BLOCK

MIB = 1 << 20
WORKER = Path(__file__).with_name("worker.py")
FLUSH, CONNECTIONS = 4, 2


class Bench:
    """One disk on its way: source, plan, journal and target."""

    def __init__(self, folder: Path, source: Path, disk: PlannedDisk) -> None:
        self.folder, self.source, self.disk = folder, source, disk
        self.cluster = file.DirectoryTarget(folder / "out")
        self.journal = folder / "journal.jsonl"
        self.claim = folder / "out/default/vm-vda/disk.img"
        self.partial = self.claim.with_name(".disk.img.partial")

    def run(self, progress: file.Progress | None = None, checks: list[Callable[[], None]] | None = None) -> Evidence:
        images = _bytes.chain(str(self.source), self.disk.format, [])
        with journal.opened(self.journal) as record, _bytes.opened(images) as opened:
            opened.checks += checks or []
            step = record.step("vm", "vda", self.cluster.name, opened.stamp)
            evidence = file.move(opened, self.disk, self.cluster, step, progress)
            step.end(evidence)
            return evidence

    def sent(self) -> dict[int, bytes]:
        return journal.digests(self.journal, "vm", "vda", self.cluster.name)

    def unharmed(self, content: bytes) -> None:
        assert self.claim.read_bytes() == content
        assert not self.partial.exists()


@pytest.fixture
def bench(tmp_path: Path, raw: Path, qcow2: Path, planned: Callable[..., PlannedDisk]) -> Bench:
    return Bench(tmp_path, qcow2, planned(qcow2, raw.stat().st_size))


def test_disk_arrives_raw_sparse_and_proved(bench: Bench, raw: Path):
    evidence = bench.run()
    bench.unharmed(raw.read_bytes())
    assert bench.claim.stat().st_blocks * 512 < 14 * MIB
    assert bench.claim.stat().st_mode & 0o777 == 0o600
    assert evidence.source == evidence.read_back
    assert (evidence.bytes, evidence.claim, evidence.method) == (raw.stat().st_size, "vm-vda", "file")
    assert file.check(bench.disk, bench.cluster, evidence) is None
    assert journal.arrived(bench.journal, bench.cluster.name) == {("default", "vm-vda"): evidence}


def test_flipped_bit_is_found_and_located(bench: Bench):
    evidence = bench.run()
    with bench.claim.open("r+b") as claim:
        claim.seek(34 * MIB)
        claim.write(b"\xff\x00")
    found = file.check(bench.disk, bench.cluster, evidence, bench.sent())
    assert isinstance(found, Mismatch)
    assert f"at byte {32 * MIB}:" in str(found)
    assert "byte" not in str(file.check(bench.disk, bench.cluster, evidence))


def test_lost_tail_and_lost_claim_are_found(bench: Bench):
    evidence = bench.run()
    os.truncate(bench.claim, MIB)
    assert "does not have" in str(file.check(bench.disk, bench.cluster, evidence))
    bench.claim.unlink()
    assert not file.present(bench.disk, bench.cluster, evidence)
    assert "missing" in str(file.check(bench.disk, bench.cluster, evidence))


def test_bytes_that_keep_changing_are_a_mismatch(bench: Bench, raw: Path):
    times = []

    def corrupt(phase: str, count: int, zeroes: int) -> None:
        if count == raw.stat().st_size:
            times.append(phase)
            with bench.partial.open("r+b") as partial:
                partial.seek((20 + 4 * len(times)) * MIB)
                partial.write(b"oops")

    with pytest.raises(
        Mismatch, match=f"in 1 of its blocks of 4 MiB, the first at byte {36 * MIB} also when sent again"
    ):
        bench.run(corrupt)
    assert times == ["copy", *["read back"] * (file.REPAIRS + 1)]
    assert not bench.claim.exists()
    assert not bench.partial.exists()
    assert bench.sent() == {}
    bench.run()
    bench.unharmed(raw.read_bytes())


def test_a_file_of_others_is_never_overwritten(bench: Bench):
    bench.claim.parent.mkdir(parents=True)
    bench.claim.write_text("precious")
    with pytest.raises(Refused, match="not the work of this plan"):
        bench.run()
    assert bench.claim.read_text() == "precious"


@pytest.mark.parametrize("name", ["..", "a/b", "/etc", "", "UPPER", "a" * 64, "a\nb", "-a"])
def test_names_never_leave_the_folder(bench: Bench, name: str):
    bench.disk.claim = name
    with pytest.raises(Refused, match="not a DNS label"):
        bench.run()
    assert not bench.cluster.root.exists()


@pytest.mark.parametrize("link", ["default", "default/vm-vda", "default/vm-vda/.disk.img.partial"])
def test_links_below_the_folder_are_not_followed(bench: Bench, tmp_path: Path, link: str):
    (tmp_path / "elsewhere").mkdir()
    (bench.cluster.root / link).parent.mkdir(parents=True)
    (bench.cluster.root / link).symlink_to(tmp_path / "elsewhere" / ("x" if "partial" in link else ""))
    with pytest.raises(Refused, match="cannot be written"):
        bench.run()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_size_other_than_planned_is_refused(bench: Bench):
    bench.disk.bytes += 512
    with pytest.raises(Refused, match="plan again"):
        bench.run()


def test_a_second_writer_is_refused(bench: Bench):
    def again(phase: str, _count: int, zeroes: int) -> None:
        if phase == "read back":
            images = _bytes.chain(str(bench.source), "qcow2", [])
            with journal.opened(bench.folder / "other.jsonl") as record, _bytes.opened(images) as opened:
                step = record.step("vm", "vda", bench.cluster.name, opened.stamp)
                file.move(opened, bench.disk, bench.cluster, step)

    with pytest.raises(Refused, match="another apply writes this claim"):
        bench.run(again)


def test_changed_source_voids_the_copy(bench: Bench, raw: Path):
    def touch(phase: str, _count: int, zeroes: int) -> None:
        if phase == "read back":
            os.utime(bench.source)

    with pytest.raises(Unfinished, match="changed during the copy"):
        bench.run(touch)
    assert not bench.claim.exists()
    assert not bench.partial.exists()
    bench.run()
    bench.unharmed(raw.read_bytes())


def test_state_check_of_the_source_voids_the_copy(bench: Bench):
    calls = []

    def check() -> None:
        calls.append(bench.partial.exists())
        if len(calls) == 2:
            raise Unfinished("vm ran during the copy; shut it off and start again")

    with pytest.raises(Unfinished, match="vm ran"):
        bench.run(checks=[check])
    assert calls == [False, True]
    assert not bench.claim.exists()
    assert bench.sent() == {}


def test_discard_removes_what_was_put_in_place(bench: Bench, raw: Path):
    images = _bytes.chain(str(bench.source), "qcow2", [])
    with journal.opened(bench.journal) as record, _bytes.opened(images) as opened:
        step = record.step("vm", "vda", bench.cluster.name, opened.stamp)
        file.move(opened, bench.disk, bench.cluster, step)
        file.discard(bench.disk, bench.cluster, step, "vm ran")
    assert list(bench.claim.parent.iterdir()) == []
    bench.run()
    bench.unharmed(raw.read_bytes())


def test_vanished_source_leaves_nothing_finished(bench: Bench, raw: Path):
    content = raw.read_bytes()

    def vanish(phase: str, _count: int, zeroes: int) -> None:
        if phase == "read back" and bench.source.exists():
            bench.source.rename(bench.source.with_suffix(".away"))

    with pytest.raises(Unfinished, match="is gone"):
        bench.run(vanish)
    assert not bench.claim.exists()
    bench.source.with_suffix(".away").rename(bench.source)
    bench.run()
    bench.unharmed(content)


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_unfinished_and_runs_again(bench: Bench, raw: Path):
    content = raw.read_bytes()
    with small_file_system(bench.cluster.root, "6m"):
        with pytest.raises(Unfinished, match=r"disk.img: No space left on device; make room and run again$"):
            bench.run()
        assert not bench.claim.exists()
        subprocess.run(["mount", "-o", "remount,size=64m", bench.cluster.root], check=True)
        bench.run()
        bench.unharmed(content)


class Killed:
    """Runs a copy in a process that counts what it writes and can kill itself."""

    def __init__(self, bench: Bench, blocks: int, scratch: str) -> None:
        self.bench, self.blocks, self.scratch, self.log = bench, blocks, scratch, bench.folder / "log"
        self.log.touch()

    def start(self, point: str = "") -> subprocess.Popen:
        bench = self.bench
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": self.scratch}
        arguments = [bench.source, bench.journal, bench.cluster.root, bench.disk.bytes, FLUSH, CONNECTIONS]
        return subprocess.Popen([sys.executable, WORKER, *map(str, arguments), self.log, point], env=environment)

    def written(self) -> int:
        return len(self.log.read_text().split())


@pytest.fixture
def killed(tmp_path: Path, planned: Callable[..., PlannedDisk]) -> Iterator[Killed]:
    source, blocks = tmp_path / "big.raw", 40
    source.write_bytes(random.Random(7).randbytes(blocks * BLOCK))
    with tempfile.TemporaryDirectory() as scratch:  # short, for its sockets
        yield Killed(Bench(tmp_path, source, planned(source, blocks * BLOCK, "raw")), blocks, scratch)


def test_killed_at_every_kind_of_point_goes_on(killed: Killed):
    points = ["write:1", "write:9", "flush:2", "record:1", "write:12", "place:1", "rename:0", "rename:1"]
    for point in points:
        assert killed.start(point).wait() == -signal.SIGKILL, point
        assert not killed.bench.claim.exists() or point == "rename:1"
    assert killed.start().wait() == 0
    killed.bench.unharmed(killed.bench.source.read_bytes())
    assert killed.written() <= killed.blocks + 5 * (FLUSH + CONNECTIONS)
    assert list(journal.arrived(killed.bench.journal, killed.bench.cluster.name)) == [("default", "vm-vda")]


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_sends_little_again(killed: Killed, seed: int):
    chance, kills = random.Random(seed), 0
    for _ in range(4):
        process = killed.start()
        time.sleep(0.15 + chance.random() * 0.35)
        process.kill()
        kills += process.wait() != 0
    assert killed.start().wait() == 0
    killed.bench.unharmed(killed.bench.source.read_bytes())
    assert killed.written() <= killed.blocks + kills * (FLUSH + CONNECTIONS)


@pytest.mark.parametrize("point", ["connect:1", "write:9"])
def test_killed_copy_leaves_no_server_behind(killed: Killed, point: str):
    def servers() -> list[Path]:
        return [path for path in Path("/proc").glob("[0-9]*/cmdline") if serves(path)]

    def serves(path: Path) -> bool:
        try:
            return b"qemu-nbd" in (line := path.read_bytes()) and str(killed.bench.source).encode() in line
        except OSError:
            return False

    assert killed.start(point).wait() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while servers() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert servers() == []


def test_source_changed_between_runs_starts_anew(killed: Killed):
    assert killed.start("write:20").wait() == -signal.SIGKILL
    assert killed.bench.sent()
    with killed.bench.source.open("r+b") as source:
        source.write(b"changed")
    assert killed.start().wait() == 0
    killed.bench.unharmed(killed.bench.source.read_bytes())


def test_lost_partial_starts_anew(killed: Killed):
    assert killed.start("write:20").wait() == -signal.SIGKILL
    killed.bench.partial.unlink()
    assert killed.start().wait() == 0
    killed.bench.unharmed(killed.bench.source.read_bytes())
