"""The journal under torn writes, damage, two writers and a full disk."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from migrate import journal
from migrate.model import Evidence, Refused

STAMP, CHUNKS = "s1", {0: b"\0" * 32, 7: b"\7" * 32}
PROOF = Evidence(
    "vm", "vda", "default", "vm-vda", "file", 4096, 4096, "aa", "aa", 1.0, 0.5, "kubevirt-migrate verify plan"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def begin(opened: journal.Journal, stamp: str = STAMP, target: str = "t") -> journal.Step:
    return opened.step("vm", "vda", target, stamp)


def write(path: Path, chunks: dict[int, bytes] = CHUNKS) -> None:
    with journal.opened(path) as opened:
        begin(opened).record(chunks)


def test_work_goes_on_where_it_ended(path: Path):
    write(path)
    with journal.opened(path) as opened:
        step = begin(opened)
        assert (step.done, step.placed, step.restarted) == (CHUNKS, None, None)
        assert journal.arrived(path, "t") == {}
        step.record({9: b"\t" * 32})
        step.place([1, 2, 3])
    with journal.opened(path) as opened:
        step = begin(opened)
        assert (step.done, step.placed) == (CHUNKS | {9: b"\t" * 32}, [1, 2, 3])
        step.end(PROOF)
    assert journal.arrived(path, "t") == {("default", "vm-vda"): PROOF}
    assert journal.arrived(path, "elsewhere") == {}
    assert journal.digests(path, "vm", "vda", "t") == CHUNKS | {9: b"\t" * 32}


def test_other_stamp_or_target_starts_anew(path: Path):
    write(path)
    with journal.opened(path) as opened:
        assert begin(opened, target="elsewhere").done == {}
        step = begin(opened, stamp="s2")
        assert step.done == {}
        assert "starts anew" in (step.restarted or "")
    with journal.opened(path) as opened:
        assert begin(opened).done == {}


def test_void_ends_what_was_done_and_a_new_begin_what_had_arrived(path: Path):
    with journal.opened(path) as opened:
        step = begin(opened)
        step.record(CHUNKS)
        step.void("vm ran")
        assert step.done == {}
        step.record({1: b"\1" * 32})
        step.end(PROOF)
    with journal.opened(path) as opened:
        assert begin(opened).done == {}
    assert journal.arrived(path, "t") == {}


def test_any_torn_last_line_is_dropped(path: Path):
    write(path)
    content = path.read_bytes()
    kept = content[: content.index(b"\n") + 1]
    for torn in (content[:-1], content[:-20], kept + b"\0" * 50, kept + b"{}\n", content[: len(kept) + 1]):
        path.write_bytes(torn)
        with journal.opened(path) as opened:
            assert path.read_bytes() == kept
            assert begin(opened).done == {}
        with journal.opened(path):
            pass


def test_damage_elsewhere_is_refused(path: Path):
    write(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"vda"', b'"vdb"', 1))
    with pytest.raises(Refused, match="damaged in line 1: restore it"), journal.opened(path):
        pass
    with pytest.raises(Refused, match="damaged"):
        journal.arrived(path, "t")
    assert path.read_bytes() == content.replace(b'"vda"', b'"vdb"', 1)


def test_two_at_once_are_refused(path: Path):
    with (
        journal.opened(path),
        pytest.raises(Refused, match="another apply is running on this plan"),
        journal.opened(path),
    ):
        pass
    with journal.opened(path):
        pass


def test_reading_needs_no_lock_and_no_journal(path: Path):
    assert journal.arrived(path, "t") == {}
    assert journal.digests(path, "vm", "vda", "t") == {}
    assert not path.exists()
    with journal.opened(path) as opened:
        begin(opened).end(PROOF)
        assert journal.arrived(path, "t") == {("default", "vm-vda"): PROOF}


def test_the_digests_of_many_disks_were_a_way_through_the_journal_each(path: Path, monkeypatch: pytest.MonkeyPatch):
    with journal.opened(path) as opened:
        for number in range(20):
            opened.step("vm", f"vd{number}", "t", STAMP).record({number: bytes(32)})
    read, times = journal._read, []
    monkeypatch.setattr(journal, "_read", lambda path: times.append(path) or read(path))
    find = journal.digests_at(path, "t")
    assert [find("vm", f"vd{number}", "default") for number in range(20)] == [
        {number: bytes(32)} for number in range(20)
    ]
    assert len(times) == 1


def test_a_target_that_was_mistyped_was_unfinished_for_ever(path: Path):
    with journal.opened(path) as opened:
        begin(opened, target="directory:/mistyped")
        assert journal.targets(path) == ["directory:/mistyped"]
        begin(opened, target="directory:/right").record(CHUNKS)
    assert journal.targets(path) == ["directory:/right"]


def test_each_line_is_json(path: Path):
    write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["begin", "chunks"]
    assert list(lines[0])[-1] == "sum"


FILL = """
import resource, signal, sys
from pathlib import Path
from migrate import journal
from migrate.model import Unfinished
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with journal.opened(Path(sys.argv[1])) as opened:
    step = opened.step("vm", "vda", "t", "s1")
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, -1))
    step.record({0: bytes(32)})
    try:
        step.record({index: bytes(32) for index in range(1, 100)})
    except Unfinished as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    step.record({1: bytes(32)})
"""


def test_line_that_does_not_fit_leaves_the_journal_whole(path: Path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    ran = subprocess.run([sys.executable, "-c", FILL, path], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large): make room and run again" in ran.stdout
    assert journal.digests(path, "vm", "vda", "t") == {0: bytes(32), 1: bytes(32)}


def test_journal_that_cannot_be_opened_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match="cannot be opened"), journal.opened(tmp_path / "missing" / "journal.jsonl"):
        pass
