"""What a run says while it works, on standard error: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.messages import RunState, TaskKind, TaskState

QUIET_SECONDS = 10.0
VERBS: dict[TaskKind, str] = {
    "compile": "kernels compiled",
    "check": "kernels checked on the CPU",
    "measure": "cells measured",
    "draw": "figures drawn",
}
OVER: tuple[TaskState, ...] = ("stored", "done", "failed", "cancelled")


class Display(Protocol):
    """Something that shows where a run stands."""

    def show(self, state: RunState) -> None:
        """Show it."""


class Lines:
    """A line when a kind of work is over, and now and then in between."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[TaskKind, int] = {}
        self.said_at = time.monotonic()

    def show(self, state: RunState) -> None:
        """Say what changed, unless something was said a moment ago."""
        for kind, verb in VERBS.items():
            over, total = progress(state, kind)
            due = over == total or time.monotonic() - self.said_at > QUIET_SECONDS
            if total and over != self.said.get(kind) and due:
                self.console.print(f"{over}/{total} {verb}", highlight=False)
                self.said[kind] = over
                self.said_at = time.monotonic()


class Bars:
    """A bar for each kind of work."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.rows = {kind: bars.add_task(verb, visible=False) for kind, verb in VERBS.items()}

    def show(self, state: RunState) -> None:
        """Move the bars."""
        for kind, row in self.rows.items():
            over, total = progress(state, kind)
            self.bars.update(row, completed=over, total=total, visible=total > 0)


def progress(state: RunState, kind: TaskKind) -> tuple[int, int]:
    """How many tasks of a kind are over, of how many."""
    counts = state.counts.get(kind, {})
    return sum(counts.get(one, 0) for one in OVER), sum(counts.values())


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """The display that suits the console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:<27}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield Bars(bars)
