"""Work spread over processes: the same results in the same order, and what fails is raised here."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from migrate.spread import BATCH, spread

ITEMS = list(range(5 * BATCH + 3))


def begin(item: int) -> tuple[int, int]:
    return item * item, item


def finish(state: int, answer: int) -> tuple[int, int]:
    return state, answer


@pytest.mark.parametrize("processes", [1, 2, 3, 16])
def test_results_come_in_order_and_every_item_meets_those_before_it(processes: int) -> None:
    seen: list[int] = []

    def meet(item: int, message: int) -> int:
        assert item == message
        seen.append(item)
        return sum(seen)

    found = list(spread(ITEMS, begin, meet, finish, processes))
    assert found == [(item * item, sum(range(item + 1))) for item in ITEMS]


def test_begin_and_finish_run_in_other_processes() -> None:
    ids = set(spread(ITEMS, lambda item: (os.getpid(), None), lambda item, _: None, lambda state, _: state, 2))
    assert len(ids) == 2
    assert os.getpid() not in ids


def test_what_fails_in_a_process_is_raised_and_leaves_no_process_behind() -> None:
    def fails(state: int, answer: None) -> int:
        if state == 4 * BATCH:
            raise OSError(28, "No space left on device")
        return state

    with pytest.raises(OSError, match="No space left"):
        list(spread(ITEMS, lambda item: (item, None), lambda item, _: None, fails, 2))
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_told() -> None:
    def dies(item: int) -> tuple[int, None]:
        if item == 2 * BATCH:
            os.kill(os.getpid(), 9)
        return item, None

    with pytest.raises(RuntimeError, match="ended with -9"):
        list(spread(ITEMS, dies, lambda item, _: None, finish, 2))


def test_a_process_did_nothing_until_its_results_were_taken() -> None:
    further = multiprocessing.get_context("fork").Event()

    def begins(item: int) -> tuple[int, None]:
        if item == 3 * BATCH:  # the second batch of the second process
            further.set()
        return item, None

    more_than_a_pipe_holds = bytes(1 << 20)
    found = spread(ITEMS, begins, lambda item, _: None, lambda item, _: more_than_a_pipe_holds, 2)
    next(found)
    assert further.wait(60)
    assert len(list(found)) == len(ITEMS) - 1
