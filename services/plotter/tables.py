"""Tables of rows of any kind: as CSV for programs, as aligned text for people."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.comparison import NONE

R = TypeVar("R")


@dataclass(frozen=True)
class Column(Generic[R]):
    """A column of a text: its head, its width, negative to stand on the left, and its words."""

    head: str
    width: int
    says: Callable[[R], str]


def as_csv(columns: Mapping[str, Callable[[R], str]], table: Iterable[R]) -> str:
    """One line a row, below the names of the columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([says(row) for says in columns.values()] for row in table)
    return text.getvalue()


def as_text(
    columns: Sequence[Column[R]],
    table: Sequence[R],
    block: Callable[[R], object],
    words: Sequence[str],
) -> str:
    """One line a row, a blank one where `block` changes; the first of `words` above, more below."""
    heading, *footer = words
    lines = [_line(columns, [column.head for column in columns])]
    last: object = None
    for row in table:
        if block(row) != last:
            last = block(row)
            lines.append("")
        lines.append(_line(columns, [column.says(row) for column in columns]))
    return "\n".join([heading, "", *lines, "", *footer, ""])


def number(value: float | None, digits: int = 6) -> str:
    """So many digits after the point, n/a for nothing."""
    return NONE if value is None else f"{value:.{digits}f}"


def _line(columns: Sequence[Column[R]], parts: Sequence[str]) -> str:
    return "  ".join(
        part.rjust(column.width) if column.width > 0 else part.ljust(-column.width)
        for column, part in zip(columns, parts, strict=True)
    ).rstrip()
