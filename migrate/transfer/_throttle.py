"""How fast bytes may pass: token buckets, one inside another, for all of a run and for one source."""

from __future__ import annotations

import re
import threading
from time import monotonic

from migrate.model import Refused

_UNITS = {unit + end: base**power for power, unit in enumerate("KMGT", 1) for end, base in (("iB", 1024), ("B", 1000))}
_RATE = re.compile(rf"(\d{{1,15}})({'|'.join(_UNITS)}|B)?(/s)?")
_SAVED = 1.0  # seconds of the rate that a bucket holds when nothing has passed for long


class Throttle:
    """A bucket that lets `rate` bytes a second through, no more than the bucket that it stands in."""

    def __init__(self, rate: int, outer: Throttle | None = None) -> None:
        self.rate, self.outer = rate, outer
        self._empty_at = monotonic() - _SAVED
        self._lock = threading.Lock()

    def reserve(self, count: int) -> float:
        """Takes `count` bytes out, in advance where they are not there; the seconds to wait before they may pass."""
        outer = self.outer.reserve(count) if self.outer else 0.0
        with self._lock:
            now = monotonic()
            self._empty_at = max(self._empty_at, now - _SAVED) + count / self.rate
            return max(outer, self._empty_at - now, 0.0)


def rate(text: str) -> int:
    """Bytes a second from what a person writes: `200MiB`, `1GB/s`, `500000`."""
    found = _RATE.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise Refused(f"{text!r} is no bandwidth; write for example 200MiB, which is so much a second")
    return int(found[1]) * _UNITS.get(found[2], 1)
