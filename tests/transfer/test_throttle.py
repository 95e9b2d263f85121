"""Token buckets, by a clock of their own; and that the copy and the stream ask them before bytes pass."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.model import Image, Refused, Unfinished
from migrate.transfer import _copy, _stream, _throttle
from migrate.transfer._bytes import serve
from migrate.transfer._digest import BLOCK
from migrate.transfer._throttle import Throttle, rate


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(_throttle, "monotonic", Clock())
    return _throttle.monotonic


def test_a_second_is_saved_and_then_the_rate_holds(clock: Clock):
    bucket = Throttle(100)
    assert [bucket.reserve(50) for _ in range(4)] == [0, 0, 0.5, 1]
    clock.now += 60
    assert [bucket.reserve(100) for _ in range(2)] == [0, 1]


def test_a_bucket_stands_in_another(clock: Clock):
    overall = Throttle(100)
    one, other = Throttle(1000, overall), Throttle(50, overall)
    assert one.reserve(100) == 0
    assert one.reserve(100) == 1
    assert other.reserve(50) == 1.5
    assert other.reserve(100) == 2.5


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 500)), min_size=1, max_size=30))
def test_no_stretch_of_time_sees_more_than_the_rate(takes: list[tuple[float, int]]):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(_throttle, "monotonic", clock)
        bucket, passed = Throttle(100), []
        for gap, count in takes:
            clock.now += gap
            passed.append((clock.now + bucket.reserve(count), count))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            seconds = passed[last][0] - passed[first][0]
            sent = sum(count for _, count in passed[first + 1 : last + 1])
            assert sent <= 100 * (seconds + 1) + 1e-6


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200MiB", 200 << 20), ("1GB/s", 10**9), (" 500000 ", 500000), ("7B", 7), ("3KiB/s", 3072), ("1TiB", 1 << 40)],
)
def test_rates_as_people_write_them(text: str, expected: int):
    assert rate(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1MiB", "1.5MiB", "MiB", "1 MiB", "1Mib", "1mb", "1" * 16, "1MiB/h"])
def test_other_rates_are_refused(text: str):
    with pytest.raises(Refused, match="write for example 200MiB"):
        rate(text)


class Counter(Throttle):
    """Lets all through and counts it."""

    def __init__(self) -> None:
        super().__init__(1)
        self.counts: list[int] = []

    def reserve(self, count: int) -> float:
        self.counts.append(count)
        return 0.0


class Nowhere:
    def write(self, offset: int, data: memoryview) -> None:
        pass

    def flush(self) -> None:
        pass


def test_copy_and_stream_ask_for_all_that_they_read_or_send(raw: Path):
    copied, streamed, plain = Counter(), Counter(), Counter()
    with serve([Image(str(raw), "raw")]) as uri:
        tree = _copy.copy(uri, Nowhere(), done={}, on_chunks=lambda chunks: None, throttle=copied)
        body = _stream.qcow2(uri, throttle=streamed)
        assert sum(map(len, body)) == body.length
        assert sum(map(len, _stream.raw(uri, throttle=plain))) == raw.stat().st_size
    assert sum(copied.counts) == tree.data
    assert max(copied.counts) <= BLOCK
    assert sum(streamed.counts) == body.length
    assert sum(plain.counts) == raw.stat().st_size


def test_a_failing_copy_does_not_wait_for_its_turn(raw: Path):
    class Full(Nowhere):
        def write(self, offset: int, data: memoryview) -> None:
            raise OSError(28, "No space left on device")

    slow = Throttle(70 << 10)  # the first block passes at once, the second after a minute
    with serve([Image(str(raw), "raw")]) as uri, pytest.raises(OSError, match="No space"):
        _copy.copy(uri, Full(), done={}, on_chunks=lambda chunks: None, throttle=slow)


@pytest.mark.timeout(30)
def test_an_interrupted_copy_does_not_wait_for_its_turn(raw: Path):
    slow = Throttle(70 << 10)
    calls = []

    def interrupted(position: int, _zeroes: int) -> None:
        calls.append(position)
        if len(calls) > 1:
            raise Unfinished("interrupted")

    with serve([Image(str(raw), "raw")]) as uri, pytest.raises(Unfinished, match="interrupted"):
        _copy.copy(uri, Nowhere(), done={}, on_chunks=lambda chunks: None, throttle=slow, progress=interrupted)
