"""The clock's offset fits its field or is said."""

from __future__ import annotations

from collections.abc import Callable
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.mapping.rules import Rules

OFFSET = "domain.clock.utc.offsetSeconds"


def findings(book: object) -> set[str]:
    return {finding.id for entry in book.entries for finding in entry.findings if finding.rule == "clock-offset"}


@given(st.integers() | st.integers(-(2**31) - 2, -(2**31) + 2) | st.integers(2**31 - 2, 2**31 + 2))
def test_an_offset_is_written_where_it_fits(run: Callable, rules: Rules, seconds: int) -> None:
    book = run(f"<clock offset='variable' basis='utc' adjustment='{seconds}'/>", rules)
    if -(2**31) <= seconds < 2**31:
        assert book.writes[OFFSET].value == seconds
        assert findings(book) == ({"clock-offset/adjusted"} if seconds else set())
    else:
        assert OFFSET not in book.writes
        assert findings(book) == {"clock-offset/number"}


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=30))
def test_a_zone_is_an_iana_name_or_is_said(run: Callable, rules: Rules, zone: str) -> None:
    book = run(f"<clock offset='timezone' timezone={quoteattr(zone)}/>", rules)
    assert ("domain.clock.timezone" in book.writes) != (findings(book) == {"clock-offset/zone"})


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "UTC"])
def test_iana_names_pass(run: Callable, rules: Rules, zone: str) -> None:
    book = run(f"<clock offset='timezone' timezone='{zone}'/>", rules)
    assert book.writes["domain.clock.timezone"].value == zone


@pytest.mark.parametrize("zone", ["W. Europe Standard Time", "UTC+1", "/etc/localtime", "Europe/../Berlin", ""])
def test_other_names_do_not(run: Callable, rules: Rules, zone: str) -> None:
    assert findings(run(f"<clock offset='timezone' timezone='{zone}'/>", rules)) == {"clock-offset/zone"}


def test_a_number_on_localtime_is_an_offset_to_local_time(run: Callable, rules: Rules) -> None:
    xml = "<clock offset='localtime' adjustment='60'/>"
    assert findings(run(xml, rules)) == {"clock-offset/localtime"}
    book = run(xml, rules, {"site": {"timezone": "Asia/Tokyo"}})
    assert book.writes["domain.clock.timezone"].value == "Asia/Tokyo"
    assert findings(book) == {"clock-offset/local-adjusted"}
