"""What all commands share: exit codes, options, and what reaches the terminal."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.table import Table

    from migrate.model import PlannedDisk
    from migrate.selection import Selection

FINDINGS, REFUSED, UNFINISHED, MISMATCH, BUG, INTERRUPTED = 1, 2, 3, 4, 70, 130
Command = TypeVar("Command", bound=Callable[..., Any])

folder = click.Path(path_type=Path)
output = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Output format.")
directory = click.option(
    "--directory",
    type=folder,
    metavar="OUT",
    help="The embedded target: claims become OUT/NAMESPACE/CLAIM/disk.img.",
)


def _namespace(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """The name as it is; a usage error for one that Kubernetes does not take, and that is thus safe in a path."""
    if name is not None and not re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise click.BadParameter(f"{name!r} is no name of a namespace: a-z, 0-9 and -, at most 63 characters")
    return name


def _cluster(help: str) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        """The options that name a cluster."""
        for option in (
            click.option(
                "-n", "--namespace", metavar="NS", callback=_namespace, help="Instead of the site file's `namespace`."
            ),
            click.option(
                "--kubeconfig", type=folder, metavar="FILE", help="Where contexts are. [default: $KUBECONFIG]"
            ),
            click.option("--context", metavar="NAME", help=help),
        ):
            command = option(command)
        return command

    return decorate


planned_for = _cluster("The cluster that the VMs have to fit; it is only read.")
carried_to = _cluster("The cluster that the plan is for.")


def selection(command: Command) -> Command:
    """The options `--select` and `--exclude`, the same everywhere."""
    what = "a name (globs too), a VM's folder in the plan, a uuid, state=STATE."
    command = click.option("--exclude", multiple=True, metavar="WHAT", help=f"Leave out: {what}")(command)
    return click.option("--select", multiple=True, metavar="WHAT", help=f"Take only: {what}")(command)


def selected(select: Iterable[str], exclude: Iterable[str]) -> Selection:
    """What `--select` and `--exclude` mean."""
    from migrate.selection import Selection

    return Selection.parse(select, exclude)


def prepare() -> None:
    """Streams that were closed lead nowhere, before a file gets their number; all take any text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def echo(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Prints a text."""
    with _heard_or_not(sys.stderr if err else sys.stdout):
        click.echo(text, nl=nl, err=err)


@contextmanager
def _heard_or_not(stream: Any) -> Iterator[None]:
    """Where nobody reads the output any more the command goes on in silence, so that its exit code is true."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fields(record: Any) -> dict[str, Any]:
    """A record as plain data."""
    from dataclasses import asdict

    return asdict(record)


def print_json(data: Any) -> None:
    """Prints data as JSON."""
    echo(ascii_only(json.dumps(data, indent=1, ensure_ascii=False)))


def ascii_only(text: str) -> str:
    """JSON whose every other character is escaped: a terminal of any encoding shows it and obeys none of it."""
    escaped = re.sub("[^\\x00-\\x7f]+", lambda match: json.dumps(match[0])[1:-1], text)
    return escaped.replace("\x7f", "\\u007f")


def say(text: str) -> None:
    """Prints lines that hold text from outside: no control character reaches the terminal."""
    from migrate.mapping.paths import printable

    echo("\n".join(printable(line, 10_000) for line in text.split("\n")))


def show(table: Table, *, fold: bool = True) -> None:
    """Prints a table: a row is one line wherever no terminal folds it, and also there where it is not to `fold`."""
    from rich.console import Console

    whole = not fold or not sys.stdout.isatty()
    console = Console(width=10_000 if whole else None)
    with console.capture() as captured:
        console.print(table)
    with _heard_or_not(sys.stdout):
        sys.stdout.write(captured.get())
        sys.stdout.flush()


def note(text: str) -> None:
    """Prints a line to stderr."""
    from migrate.mapping.paths import printable

    echo(printable(text, 2000), err=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[Any], Any]]:
    """A bar on stderr that a person sees; each item passed through moves it on. None where stderr is no terminal."""
    if not sys.stderr.isatty() or total < 50:
        yield lambda item: item
        return
    from rich.console import Console
    from rich.progress import Progress

    # Without the bar's own thread, so that planning can fork.
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
        task = bars.add_task(what, total=total)
        shown = 0.0

        def step(item: Any) -> Any:
            nonlocal shown
            bars.advance(task)
            if time.monotonic() - shown > 0.1:
                bars.refresh()
                shown = time.monotonic()
            return item

        yield step


class Bars:
    """Bars on stderr for disks that are copied, and one for all `total` bytes; nothing where that is no terminal."""

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.live: Any = None
        self.all: Any = None
        self.copied: dict[str, tuple[int, int]] = {}
        self.tasks: dict[tuple[str, str], Any] = {}
        self.lock = threading.Lock()

    def step(self, disk: PlannedDisk, phase: str, done: int, zeroes: int) -> None:
        """Moves the bar of a disk and phase to `done` bytes, of which `zeroes` were skipped; from any thread."""
        if not sys.stderr.isatty():
            return
        with self.lock:
            self._start()
            key = (disk.claim, phase)
            if key not in self.tasks:
                self.tasks[key] = self.live.add_task(f"{disk.claim} {phase}", total=disk.bytes, zeroes="")
            self.live.update(self.tasks[key], completed=done, zeroes=_skipped(zeroes))
            if phase == "copy":
                self.copied[disk.claim] = done, zeroes
                self._update_all()

    def _start(self) -> None:
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        if self.live is None:
            name = progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
            sizes = progress.DownloadColumn(True, table_column=Column(no_wrap=True))
            zeroes = progress.TextColumn("{task.fields[zeroes]}", table_column=Column(no_wrap=True))
            columns = (
                name,
                progress.BarColumn(),
                sizes,
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
            )
            self.live = progress.Progress(*columns, zeroes, console=Console(stderr=True), transient=True)
            self.live.start()
            self.all = self.live.add_task("all disks", total=self.total, zeroes="")
            self._update_all()

    def _update_all(self) -> None:
        done, zeroes = (sum(counts) for counts in zip((0, 0), *self.copied.values(), strict=True))
        self.live.update(self.all, completed=done, zeroes=_skipped(zeroes))

    def clear(self) -> None:
        """Takes the bars away, so that a line can be printed."""
        with self.lock:
            if self.live is not None:
                self.live.stop()
                self.live, self.tasks = None, {}


def _skipped(zeroes: int) -> str:
    """What a bar says of the zeroes that were never read and never sent."""
    from migrate.target.quantity import human

    return f"skipped {human(zeroes)}" if zeroes else ""


class Events:
    """Lines of JSON on stderr that say how far a disk is, at most one a second for each phase of it."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str, str], tuple[float, int]] = {}
        self.lock = threading.Lock()

    def step(self, disk: PlannedDisk, phase: str, done: int, zeroes: int) -> None:
        """Tells that a disk has come to `done` bytes of a phase, of which `zeroes` were skipped; from any thread."""
        now, key = time.monotonic(), (disk.namespace, disk.claim, phase)
        with self.lock:
            last, known = self.told.get(key, (0.0, -1))
            if done == known or (done != disk.bytes and now - last < 1):
                return
            self.told[key] = now, done
            counts = {"bytes": done, "of": disk.bytes, "zeroes": zeroes}
            event = {"event": "progress", "claim": f"{disk.namespace}/{disk.claim}", "phase": phase, **counts}
            echo(ascii_only(json.dumps(event, ensure_ascii=False)), err=True)

    def clear(self) -> None:
        """Leaves what was printed."""
