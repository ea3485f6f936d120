"""Layouts to look at: who holds what, where it lies, and who waits for whom."""

from collections import Counter
from itertools import product
from math import prod

from tilus.dtypes import dtype
from tilus.inspect.expressions import layout_of, shared_layout_of
from tilus.layout import grid
from tilus.shared_layout import Access, SharedLayout, bank_conflicts


def describe_layout(text: str) -> str:
    """A layout's facts, and `thread:register` for each element."""
    found = layout_of(text)
    copies = f", {found.replicas} threads hold each element" if found.replicas > 1 else ""
    facts = f"shape {found.shape}, {found.threads} threads, {found.registers} registers{copies}"
    return f"{found}\n{facts}\n\n{grid(found)}"


def describe_shared(text: str, of: str, held: str) -> str:
    """Where the elements lie, or what it takes warps to move a tile held in that layout."""
    shared, element = shared_layout_of(text), dtype(of)
    facts = f"shape {shared.shape}, {shared.size * element.bits // 8} bytes of {element}"
    if not held:
        return f"{facts}, element offsets:\n\n{offsets(shared)}"
    return f"{facts}\n{conflicts(bank_conflicts(shared, layout_of(held), element), element.bits)}"


def offsets(shared: SharedLayout) -> str:
    """The offset of each element, a line a row."""
    *rows, columns = shared.shape or (1,)
    cells = [str(shared(index)) for index in product(*map(range, shared.shape))]
    width = max(map(len, cells))
    return "\n".join(
        " ".join(cell.rjust(width) for cell in cells[row * columns : (row + 1) * columns])
        for row in range(prod(rows))
    )


def conflicts(accesses: tuple[Access, ...], bits: int) -> str:
    """How many accesses take how many wavefronts, the worst first."""
    alike = Counter((a.wavefronts, a.least) for a in accesses)
    lines = [
        f"{count:5} x {turns:3} wavefronts, {least} at the least"
        for (turns, least), count in sorted(alike.items(), reverse=True)
    ]
    wide = accesses[0].registers * bits // 8
    turns, least = sum(a.wavefronts for a in accesses), sum(a.least for a in accesses)
    many = f"{len(accesses)} access{'es' if len(accesses) > 1 else ''}"
    head = f"{many} of a warp, {wide} bytes a thread:"
    return "\n".join([head, *lines, f"total {turns} wavefronts, {least} at the least"])
