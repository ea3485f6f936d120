"""What goes wrong when a user asks for something that cannot be."""

from collections.abc import Iterator
from contextlib import contextmanager


class TilusError(Exception):
    """A request that cannot be met, told as what was asked, what there is, and what to do.

    Where a line of a kernel asked for it, the text ends with `place`: that line.
    """

    place = ""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.place}" if self.place else super().__str__()


@contextmanager
def asked_by(where: str) -> Iterator[None]:
    """What goes wrong inside was asked for at `where`, as a `Do` has it; the innermost counts."""
    try:
        yield
    except TilusError as wrong:
        line, _, code = where.partition(": ")
        wrong.place = wrong.place or place(line, code)
        raise


def place(line: str, code: str, start: int = 0, end: int = 0) -> str:
    """The last lines of an error: the name of a line, its code, carets below start .. end - 1."""
    if not line:
        return ""
    carets = f"\n      {' ' * start}{'^' * (end - start)}" if end > start else ""
    return f"  at {line}\n      {code}{carets}"
