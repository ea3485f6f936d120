"""Which line of a kernel asks: for a statement when it is traced, for an error when it is told.

A line is the innermost one being run in a file that is not the machine's own. The kernel library is
written as any other kernel is.
"""

import contextlib
import linecache
import sys
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType, TracebackType

from tilus.errors import TilusError, place

MACHINE = Path(__file__).parent
LIBRARY = MACHINE / "kernels"


@cache
def is_machine(file: str) -> bool:
    """Whether `file` is the tracer's side of a call, not a kernel's; `with` blocks lie between."""
    path = Path(file)
    within = path.is_relative_to(MACHINE) and not path.is_relative_to(LIBRARY)
    return within or file == contextlib.__file__


@cache
def short_name(file: str) -> str:
    return Path(file).name


def calling_line() -> str:
    """The line of the kernel that is being run: "matmul.py:12: c = t.dot(a, b, c)"."""
    frame = sys._getframe(1)
    while is_machine(frame.f_code.co_filename) and frame.f_back:
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return f"{short_name(file)}:{line}: {linecache.getline(file, line).strip()}"


def mark(wrong: TilusError) -> None:
    """Let an error that a kernel met end with the line that asked, a caret below the call."""
    asking = None
    step = wrong.__traceback__
    while step:
        if not is_machine(step.tb_frame.f_code.co_filename):
            asking = step
        step = step.tb_next
    if asking and not wrong.place:
        wrong.place = place_of(asking)


def place_of(step: TracebackType) -> str:
    code, number = step.tb_frame.f_code, step.tb_lineno
    line = linecache.getline(code.co_filename, number).rstrip()
    indent = len(line) - len(line.lstrip())
    start, end = columns(code, step.tb_lasti, line)
    name = f"{short_name(code.co_filename)}:{number}"
    return place(name, line[indent:], start - indent, end - indent)


def columns(code: CodeType, instruction: int, line: str) -> tuple[int, int]:
    """Which characters of `line` the byte code at `instruction` was made from."""
    positions = next(islice(code.co_positions(), instruction // 2, None))
    first, last, start, end = positions
    if start is None or end is None:
        return 0, 0
    raw = line.encode()  # positions count bytes
    stop = len(line) if first != last else len(raw[:end].decode())
    return len(raw[:start].decode()), stop
