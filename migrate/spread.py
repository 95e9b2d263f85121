"""Work on many items in several processes, whose results come in the order of the items whatever their number."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

BATCH = 32  # items that a process has in hand at a time
ENDED = object()

Item = TypeVar("Item")
State = TypeVar("State")
Message = TypeVar("Message")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def spread(
    items: Sequence[Item],
    begin: Callable[[Item], tuple[State, Message]],
    meet: Callable[[Item, Message], Answer],
    finish: Callable[[State, Answer], Result],
    processes: int,
) -> Iterator[Result]:
    """The results of all items in their order. `meet` alone sees one item after another, in this process.

    `begin` and `finish` run in forked processes, which keep the state between the two; messages, answers and results
    travel. What fails there is raised here.
    """
    batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    if processes == 1 or len(batches) < 2:
        for item in items:
            state, message = begin(item)
            yield finish(state, meet(item, message))
        return
    workers = [_Worker(batches[first::processes], begin, finish) for first in range(min(processes, len(batches)))]
    for worker in workers:
        worker.listen()
    try:
        finishing: deque[_Worker] = deque()
        for number, batch in enumerate(batches):
            worker = workers[number % len(workers)]
            if worker in finishing:
                yield from finishing.popleft().receive()
            worker.send([meet(item, message) for item, message in zip(batch, worker.receive(), strict=True)])
            finishing.append(worker)
        for worker in finishing:
            yield from worker.receive()
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that begins and finishes its batches one after another, and never waits until it has been listened to.

    It is at most one batch ahead, for it waits for the answers to what it has begun.
    """

    def __init__(self, batches: Sequence[Sequence[Any]], begin: Callable[..., Any], finish: Callable[..., Any]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, self._pipe, batches, begin, finish), daemon=True)
        self._process.start()
        other.close()
        self._heard: SimpleQueue[Any] = SimpleQueue()
        self._ear = Thread(target=self._hear, daemon=True)

    def listen(self) -> None:
        """Takes what the process sends as it comes. Processes are forked before the first thread begins."""
        self._ear.start()

    def _hear(self) -> None:
        try:
            with suppress(EOFError, ConnectionResetError):  # the process has ended
                while True:
                    self._heard.put(self._pipe.recv())
        finally:
            self._heard.put(ENDED)

    def send(self, answers: list[Any]) -> None:
        self._pipe.send(answers)

    def receive(self) -> list[Any]:
        """The next messages or results; raises what the process failed with."""
        found = self._heard.get()
        if found is ENDED:
            self._process.join()
            raise RuntimeError(f"a planning process ended with {self._process.exitcode}")
        if isinstance(found, BaseException):
            raise found
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        if self._ear.ident:
            self._ear.join()
        self._pipe.close()


def _work(pipe: Any, others: Any, batches: Sequence[Sequence[Any]], begin: Any, finish: Any) -> None:
    others.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process ends the others
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the first process is gone
        try:
            for batch in batches:
                begun = [begin(item) for item in batch]
                pipe.send([message for _, message in begun])
                pipe.send([finish(state, answer) for (state, _), answer in zip(begun, pipe.recv(), strict=True)])
        except Exception as error:
            pipe.send(error)
