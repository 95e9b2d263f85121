"""Nothing stands in a rule file that no example reaches: no rule, row, flag, gate, gain or implied leaf."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from migrate.mapping import rule_files
from migrate.mapping.ledger import Ledger

RULES = rule_files.load()
DOMAINS = sorted((Path(__file__).parent.parent / "corpus" / "domains").glob("*.xml"))


class Exercise(NamedTuple):
    """What all examples of all rules reached together."""

    owners: set[str]
    rows: set[str]
    gains: set[str]
    implied: set[tuple[str, str]]


@pytest.fixture(scope="module")
def exercise(run: Callable) -> Exercise:
    done = Exercise(set(), set(), set(), set())
    for rule in RULES.rules.values():
        for example in rule.examples:
            book = run(example["xml"], RULES, example)
            done.owners.update(entry.rule for entry in book.entries)
            done.rows.update(row.name for row in book.rows)
            done.gains.update(gain.because for gain in book.gains)
            done.implied.update(_implied(book))
    for domain in DOMAINS:
        done.implied.update(_implied(run(domain.read_text(), RULES)))
    return done


def _implied(book: Ledger) -> Iterator[tuple[str, str]]:
    return ((re.sub(r"\[\d+\]", "", entry.path), entry.value) for entry in book.entries if entry.implied)


def test_every_rule_owns_a_leaf_of_an_example(exercise: Exercise) -> None:
    assert not RULES.rules.keys() - exercise.owners


def test_every_row_and_flag_is_reached_by_an_example(exercise: Exercise) -> None:
    rows = {
        f"{rule.id}/{row.id}"
        for rule in RULES.rules.values()
        for row in (*rule.rows.values(), *([rule.otherwise] if rule.otherwise else []))
    }
    assert not sorted(rows - exercise.rows)


def test_every_gain_is_gained_in_an_example(exercise: Exercise) -> None:
    assert not [gain.id for gain in RULES.gains if gain.because not in exercise.gains]


def test_every_implied_leaf_is_implied_in_an_example_or_the_corpus(exercise: Exercise) -> None:
    implied = {(f"{row.each}.{row.leaf}".strip("."), row.value) for rows in RULES.implied.values() for row in rows}
    assert not sorted(implied - exercise.implied)
