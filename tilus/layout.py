"""Register layouts: which thread of a block holds which element of a tile, in which register.

A layout of shape S is a function f(thread, register) -> index in S. Both numbers are read as
mixed-radix numbers, most significant digit first, and every digit moves the index along one
dimension: such a digit is a `Mode`. A thread digit that moves nothing numbers replicas: threads
that hold the same elements. Apart from replicas a layout is a bijection.

    local(2, 3)      one thread holds a 2x3 tile, row by row in its registers
    spatial(2, 3)    six threads, numbered row by row, hold one element each
    a * b            every element of `a` becomes a copy of `b`

Layouts are values: two of them are equal, and hash alike, exactly when they are the same function.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any, NamedTuple

from tilus.errors import TilusError

REPLICA = -1  # the `dim` of a digit that moves nothing


class Mode(NamedTuple):
    """A digit of `size` values that moves the index by `stride` along `dim` (replicas: -1, 0)."""

    size: int
    dim: int
    stride: int


Modes = tuple[Mode, ...]


@dataclass(frozen=True, repr=False)
class Layout:
    """A layout in normal form, outermost modes first, as only `layout` makes it."""

    shape: tuple[int, ...]
    thread_modes: Modes
    register_modes: Modes

    @property
    def is_open(self) -> bool:
        """Whether only its shape is chosen."""
        return False

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def threads(self) -> int:
        return _count(self.thread_modes)

    @property
    def registers(self) -> int:
        return _count(self.register_modes)

    @property
    def replicas(self) -> int:
        """How many threads hold each element."""
        return prod(mode.size for mode in self.thread_modes if mode.dim == REPLICA)

    def __call__(self, thread: Any, register: Any) -> tuple[Any, ...]:
        """The index of the element that `register` of `thread` holds."""
        parts = zip(self.thread_part(thread), self.register_part(register), strict=True)
        return tuple(_plus(a, b) for a, b in parts)

    def thread_part(self, thread: Any) -> tuple[Any, ...]:
        """f(thread, 0), with the int 0 along a dimension in which threads do not differ."""
        return _moved(self.thread_modes, thread, self.rank)

    def register_part(self, register: Any) -> tuple[Any, ...]:
        """f(0, register), with the int 0 along a dimension in which registers do not differ."""
        return _moved(self.register_modes, register, self.rank)

    def replica(self, thread: Any) -> Any:
        """Which of the `replicas` copies `thread` holds: 0 for the thread that `owner` names."""
        copy: Any = 0
        for mode, digit in zip(self.thread_modes, _digits(thread, self.thread_modes), strict=True):
            if mode.dim == REPLICA:
                copy = _plus(_times(copy, mode.size), digit)
        return copy

    def __mul__(self, inner: "Layout") -> "Layout":
        """h(t, i) = self(t / T, i / N) . S + inner(t % T, i % N) for S, T, N of `inner`."""
        _same_rank("product", self, inner)
        return layout(
            [a * b for a, b in zip(self.shape, inner.shape, strict=True)],
            (*_scaled(self.thread_modes, inner.shape, int.__mul__), *inner.thread_modes),
            (*_scaled(self.register_modes, inner.shape, int.__mul__), *inner.register_modes),
        )

    def __truediv__(self, inner: "Layout") -> "Layout":
        """The layout f with f * inner == self."""
        _same_rank("division", self, inner)
        thread_modes, thread_inner = _cut(self.thread_modes, inner.threads)
        register_modes, register_inner = _cut(self.register_modes, inner.registers)
        if (thread_inner, register_inner) != (inner.thread_modes, inner.register_modes):
            raise TilusError(
                f"{self} is not the product of a layout and {inner}: divide by another"
            )
        return layout(
            [a // b for a, b in zip(self.shape, inner.shape, strict=True)],
            _scaled(thread_modes, inner.shape, int.__floordiv__),
            _scaled(register_modes, inner.shape, int.__floordiv__),
        )

    def __repr__(self) -> str:
        threads = tuple(map(tuple, self.thread_modes))
        registers = tuple(map(tuple, self.register_modes))
        return f"layout({self.shape}, threads={threads}, registers={registers})"


@dataclass(frozen=True, repr=False)
class Open(Layout):
    """A layout of which only the shape is chosen; `tilus.passes.infer_layouts` chooses the rest."""

    thread_modes: Modes = ()
    register_modes: Modes = ()

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) and n > 0 for n in self.shape):
            raise TilusError(f"open: extents {self.shape}: want positive numbers")

    @property
    def is_open(self) -> bool:
        return True

    @property
    def threads(self) -> int:
        raise self._undecided()

    @property
    def registers(self) -> int:
        raise self._undecided()

    def __repr__(self) -> str:
        return f"open({', '.join(map(str, self.shape))})"

    def _undecided(self) -> TilusError:
        return TilusError(f"the layout {self} is still open: run tilus.passes.infer_layouts first")


def layout(
    shape: Iterable[int],
    threads: Iterable[tuple[int, int, int]],
    registers: Iterable[tuple[int, int, int]],
) -> Layout:
    """The layout with these (size, dim, stride) modes, outermost first, once each index is held."""
    extents = tuple(shape)
    thread_modes = _checked(threads, len(extents))
    register_modes = _checked(registers, len(extents))
    if any(mode.dim == REPLICA for mode in register_modes):
        raise TilusError(f"layout: registers {register_modes} hold replicas: only threads may")
    for dim, extent in enumerate(extents):
        _check_covered(dim, extent, [m for m in (*thread_modes, *register_modes) if m.dim == dim])
    return Layout(extents, thread_modes, register_modes)


def local(*shape: int) -> Layout:
    """One thread holds a tile, the last dimension fastest in its registers."""
    return layout(shape, (), [(n, dim, 1) for dim, n in enumerate(shape)])


def spatial(*shape: int) -> Layout:
    """Each thread holds one element, the last dimension fastest over the threads."""
    return layout(shape, [(n, dim, 1) for dim, n in enumerate(shape)], ())


def column_local(*shape: int) -> Layout:
    """One thread holds a tile, the first dimension fastest in its registers."""
    return layout(shape, (), [(n, dim, 1) for dim, n in enumerate(shape)][::-1])


def column_spatial(*shape: int) -> Layout:
    """Each thread holds one element, the first dimension fastest over the threads."""
    return layout(shape, [(n, dim, 1) for dim, n in enumerate(shape)][::-1], ())


def replicate(threads: int, rank: int) -> Layout:
    """Every one of `threads` threads holds the only element of a tile of `rank` dimensions."""
    return layout((1,) * rank, [(threads, REPLICA, 0)], ())


def stack(count: int, a: Layout) -> Layout:
    """`count` copies of `a` along a new first dimension, each for threads of its own."""
    moved = [[(m.size, m.dim + (m.dim != REPLICA), m.stride) for m in modes]
             for modes in (a.thread_modes, a.register_modes)]  # fmt: skip
    return layout((count, *a.shape), [(count, 0, 1), *moved[0]], moved[1])


def reduce(a: Layout, dims: Iterable[int]) -> Layout:
    """`a` with extent 1 along `dims`: threads that differed there only become replicas."""
    gone = set(dims)
    if not gone <= set(range(a.rank)):
        raise TilusError(f"reduce: dimensions {sorted(gone)} of a layout of rank {a.rank}: {a}")
    shape = [1 if dim in gone else n for dim, n in enumerate(a.shape)]
    if isinstance(a, Open):
        return Open(tuple(shape))
    return layout(
        shape,
        [(m.size, REPLICA, 0) if m.dim in gone else m for m in a.thread_modes],
        [m for m in a.register_modes if m.dim not in gone],
    )


def narrow(a: Layout, dim: int, extent: int) -> Layout:
    """`a` with `extent` of its indices along `dim`, those that equal registers of `a` hold.

    TilusError unless the digits above `extent` are digits of registers.
    """
    shape = [extent if d == dim else n for d, n in enumerate(a.shape)]
    if isinstance(a, Open):
        return Open(tuple(shape))
    for mode in a.thread_modes:
        if mode.dim == dim and mode.stride * mode.size > extent:
            raise TilusError(
                f"narrow: {extent} indices along dimension {dim} of {a} are in some threads only"
            )
    kept = [
        Mode(min(m.size, extent // m.stride), m.dim, m.stride) if m.dim == dim else m
        for m in a.register_modes
        if m.dim != dim or m.stride < extent
    ]
    return layout(shape, a.thread_modes, kept)


def transpose(a: Layout) -> Layout:
    """`a` with its dimensions in the opposite order."""
    last = a.rank - 1

    def turned(modes: Modes) -> Iterable[Mode]:
        return (m if m.dim == REPLICA else Mode(m.size, last - m.dim, m.stride) for m in modes)

    return layout(a.shape[::-1], turned(a.thread_modes), turned(a.register_modes))


def permute_registers(a: Layout, sizes: Sequence[int], order: Sequence[int]) -> Layout:
    """h(t, j) = a(t, i) where the digits of j are those of i, of `sizes`, taken in `order`."""
    if prod(sizes) != a.registers or min(sizes, default=1) < 1:
        raise TilusError(f"permute_registers: {a} has {a.registers} registers, not {tuple(sizes)}")
    if sorted(order) != list(range(len(sizes))):
        raise TilusError(
            f"permute_registers: order {order} is no permutation of {len(sizes)} digits"
        )
    digits: list[Modes] = []
    rest = a.register_modes
    for size in reversed(sizes):
        rest, digit = _cut(rest, size)
        digits.insert(0, digit)
    if _count(rest) > 1:
        raise TilusError(
            f"permute_registers: {tuple(sizes)} cuts unevenly through the modes of {a}"
        )
    return layout(a.shape, a.thread_modes, [mode for k in order for mode in digits[k]])


def owner(a: Layout, index: Sequence[Any]) -> tuple[Any, Any]:
    """The first thread that holds the element at `index`, and its register."""
    if len(index) != a.rank:
        raise TilusError(f"owner: {len(index)} numbers index a layout of rank {a.rank}: {a}")
    return _number(a.thread_modes, index, a.shape), _number(a.register_modes, index, a.shape)


def contiguous(a: Layout, dim: int) -> int:
    """The largest power of two v such that v registers from v*j on hold v elements in a row.

    In a row: their indices along `dim` are v*k, v*k + 1, ... for some k, in every thread.
    """
    if not a.register_modes or a.register_modes[-1][1:] != (dim, 1):
        return 1
    size = a.register_modes[-1].size
    return size & -size


def grid(a: Layout) -> str:
    """The tile as text, `thread:register` of the owner of each element, a blank line per plane."""
    *rows, columns = a.shape or (1,)
    holders = [owner(a, index) for index in product(*map(range, a.shape))]
    cells = [f"{thread}:{register}" for thread, register in holders]
    width = max(map(len, cells))
    lines = []
    for row in range(prod(rows)):
        if row and len(rows) > 1 and row % rows[-1] == 0:
            lines.append("")
        held = cells[row * columns : (row + 1) * columns]
        lines.append(" ".join(cell.rjust(width) for cell in held))
    return "\n".join(lines)


def _count(modes: Iterable[Mode]) -> int:
    return prod(mode.size for mode in modes)


def _merged(modes: Iterable[Mode]) -> Modes:
    """The one shortest list of modes that moves every number as `modes` do."""
    merged: list[Mode] = []
    for mode in modes:
        if mode.size == 1:
            continue
        if merged and merged[-1][1:] == (mode.dim, mode.stride * mode.size):
            mode = Mode(merged.pop().size * mode.size, mode.dim, mode.stride)
        merged.append(mode)
    return tuple(merged)


def _checked(triples: Iterable[tuple[int, int, int]], rank: int) -> Modes:
    modes = [Mode(*triple) for triple in triples]
    for mode in modes:
        replica = mode.dim == REPLICA and mode.stride == 0
        if mode.size < 1 or not (replica or (0 <= mode.dim < rank and mode.stride > 0)):
            raise TilusError(
                f"layout: {mode} in a layout of rank {rank}: size and stride are positive and dim "
                f"is below the rank, or dim is {REPLICA} and stride 0 for replicas"
            )
    return _merged(modes)


def _check_covered(dim: int, extent: int, modes: Sequence[Mode]) -> None:
    """Digits reach 0 .. extent - 1 once each exactly when each stride is the product below it."""
    reached = 1
    for mode in sorted(modes, key=lambda mode: mode.stride):
        if mode.stride != reached:
            break
        reached *= mode.size
    else:
        if reached == extent:
            return
    raise TilusError(
        f"layout: (size, stride) {[(m.size, m.stride) for m in modes]} do not reach each of the "
        f"{extent} indices of dimension {dim} once: each stride must be the product of the sizes "
        "with smaller strides"
    )


def _same_rank(what: str, a: Layout, b: Layout) -> None:
    if a.rank != b.rank:
        raise TilusError(
            f"{what}: {a} has rank {a.rank} and {b} has rank {b.rank}: make them equal"
        )


def _scaled(
    modes: Modes, factors: Sequence[int], scale: Callable[[int, int], int]
) -> Iterable[Mode]:
    for size, dim, stride in modes:
        yield Mode(size, dim, stride if dim == REPLICA else scale(stride, factors[dim]))


def _cut(modes: Modes, count: int) -> tuple[Modes, Modes]:
    """`modes` as (outer, inner), where `inner` numbers `count`, or less if no cut lies there."""
    outer, inner = list(modes), list[Mode]()
    while count > 1 and outer:
        size, dim, stride = outer[-1]
        taken = gcd(size, count)
        if taken == 1:
            break
        del outer[-1]
        inner.insert(0, Mode(taken, dim, stride))
        if taken < size:
            outer.append(Mode(size // taken, dim, stride * taken))
        count //= taken
    return tuple(outer), tuple(inner)


def _digits(number: Any, modes: Modes) -> list[Any]:
    """The digits of `number`, which is below the count of `modes`, with no operation to spare."""
    digits: list[Any] = []
    weight = 1
    for place, mode in enumerate(reversed(modes), start=1):
        upper = number if weight == 1 else number // weight
        digits.insert(0, upper if place == len(modes) else upper % mode.size)
        weight *= mode.size
    return digits


def _moved(modes: Modes, number: Any, rank: int) -> tuple[Any, ...]:
    index: list[Any] = [0] * rank
    for mode, digit in zip(modes, _digits(number, modes), strict=True):
        if mode.dim != REPLICA:
            index[mode.dim] = _plus(index[mode.dim], _times(digit, mode.stride))
    return tuple(index)


def _number(modes: Modes, index: Sequence[Any], shape: Sequence[int]) -> Any:
    """The smallest number that `modes` move to `index`."""
    number: Any = 0
    weight = _count(modes)
    for size, dim, stride in modes:
        weight //= size
        if dim == REPLICA:
            continue
        upper = index[dim] if stride == 1 else index[dim] // stride
        digit = upper if stride * size == shape[dim] else upper % size
        number = _plus(number, _times(digit, weight))
    return number


def _plus(a: Any, b: Any) -> Any:
    match a, b:
        case int(0), _:
            return b
        case _, int(0):
            return a
        case _:
            return a + b


def _times(a: Any, factor: int) -> Any:
    return a if factor == 1 else a * factor
