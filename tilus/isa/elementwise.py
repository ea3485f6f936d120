"""One operation per element. An operation is one row of `OPS`."""

from typing import Any, NamedTuple

import numpy as np

from tilus.dtypes import DType, bf16, f16, f32, i32, u32
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Inst, Tile, Writer, every, instruction
from tilus.isa.spelling import arithmetic, kind
from tilus.layout import Layout, local, reduce, spatial

FLOAT = (f16, bf16, f32)
NUMBER = (*FLOAT, i32, u32)
WHOLE = (i32, u32)


def multiply_add(a: Tile, b: Tile, c: Tile) -> Tile:
    """a * b + c, rounded once by the caller."""
    return a * b + c


class Op(NamedTuple):
    run: Any  # the meaning, on NumPy arrays of float64 or int64
    code: str  # the code, on scalars
    accepts: tuple[DType, ...]
    pair: str = ""  # the code for two float16 in a word, where the chip has it


OPS = {
    "add":  Op(np.add,         "{} + {}",        NUMBER, "add_f16_pair({}, {})"),
    "sub":  Op(np.subtract,    "{} - {}",        NUMBER, "sub_f16_pair({}, {})"),
    "mul":  Op(np.multiply,    "{} * {}",        NUMBER, "mul_f16_pair({}, {})"),
    "div":  Op(np.true_divide, "{} / {}",        FLOAT),
    "max":  Op(np.maximum,     "max({}, {})",    NUMBER),
    "min":  Op(np.minimum,     "min({}, {})",    NUMBER),
    "xor":  Op(np.bitwise_xor, "{} ^ {}",        WHOLE),
    "neg":  Op(np.negative,    "-{}",            (*FLOAT, i32)),
    "fma":  Op(multiply_add,   "fmaf({}, {}, {})", FLOAT),
    "exp":  Op(np.exp,         "expf({})",       FLOAT),
}  # fmt: skip


@instruction
class Elementwise(Inst):
    """Apply `op` to the elements of `args`, which agree in dtype.

    Floats are computed in float32 and rounded once. An operand whose extent is 1 in a dimension is
    broadcast along it; its layout must put the element that a thread needs into that thread (for
    an operand of layout `reduce(layout, dims)` that is so).
    """

    op: str
    args: tuple[Register, ...]

    def result(self) -> Register:
        if self.op not in OPS:
            raise TilusError(f"no operation {self.op!r}: there are {', '.join(OPS)}")
        op = OPS[self.op]
        if len(self.args) != arity(op):
            raise TilusError(f"{self.op} takes {arity(op)} operands, not {len(self.args)}")
        first = self.args[0]
        for arg in self.args:
            if arg.dtype not in op.accepts or arg.dtype != first.dtype:
                types = [arg.dtype for arg in self.args]
                raise TilusError(
                    f"{self.op} takes one of {list(op.accepts)}, not {types}: cast first"
                )
        whole = max(self.args, key=lambda arg: int(np.prod(arg.shape)))
        for arg in self.args:
            sources(self.op, whole.layout, arg.layout)
        return Register("", first.dtype, whole.layout)

    def run(self, block: Block, *args: Tile) -> Tile:
        dtype = self.args[0].dtype
        with np.errstate(all="ignore"):
            exact = OPS[self.op].run(*(dtype.values(a) for a in args))
        if dtype.kind == "float":
            return dtype.carry(exact)
        return np.asarray(exact).astype(dtype.carrier)  # wraps around, as registers do

    def cuda(self, cu: Writer, out: Register) -> None:
        op, of = OPS[self.op], [sources(self.op, out.layout, arg.layout) for arg in self.args]
        words = [cu.words(arg) for arg in self.args]
        if op.pair and out.dtype == f16 and out.layout.registers % 2 == 0:
            for w in range(out.layout.registers // 2):
                pairs = (
                    f"pair<{r[2 * w]}, {r[2 * w + 1]}>({name})"
                    for name, r in zip(words, of, strict=True)
                )
                cu.line(f"{cu.words(out)}[{w}] = {op.pair.format(*pairs)};")
            return
        tag, c_type = kind(out.dtype), arithmetic(out.dtype)
        for i in range(out.layout.registers):
            values = (f"get<{tag}, {r[i]}>({name})" for name, r in zip(words, of, strict=True))
            code = op.code.format(*values)
            cu.line(f"set<{tag}, {i}>({cu.words(out)}, ({c_type})({code}));")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = spatial(8, 4) * local(1, 2)
        names = ("r0", "r1", "r2")
        same = [
            cls(name, tuple(Register(r, t, tile) for r in names[: arity(op)]))
            for name, op in OPS.items()
            for t in op.accepts
        ]
        wide = local(2, 2) * tile
        row, column = reduce(wide, (0,)), reduce(wide, (1,))
        single = spatial(8, 4) * local(1, 1)
        return [
            *same,
            cls("sub", (Register("r0", f32, wide), Register("r1", f32, row))),
            cls("sub", (Register("r0", f16, row), Register("r1", f16, wide))),
            cls("sub", (Register("r0", f16, wide), Register("r1", f16, column))),
            cls("add", (Register("r0", f16, single), Register("r1", f16, reduce(single, (0,))))),
            cls(
                "fma",
                (Register("r0", f32, column), Register("r1", f32, row), Register("r2", f32, wide)),
            ),
        ]


def arity(op: Op) -> int:
    """How many operands `op` takes."""
    return op.code.count("{}")


def sources(op: str, whole: Layout, part: Layout) -> list[int]:
    """For each register of `whole` the register of `part` with the element that it meets.

    `part` is broadcast where its extent is 1; the answer must be the same for every thread.
    """
    if part == whole:
        return list(range(whole.registers))
    fits = len(part.shape) == len(whole.shape) and all(
        p in (1, w) for p, w in zip(part.shape, whole.shape, strict=True)
    )
    if not fits or part.threads != whole.threads:
        raise TilusError(
            f"{op}: a tile {part.shape} over {part.threads} threads does not broadcast to"
            f" {whole.shape} over {whole.threads} threads"
        )
    asked = np.stack([i * (p > 1) for i, p in zip(every(whole), part.shape, strict=True)], axis=-1)
    held = np.stack(every(part), axis=-1)
    places = {tuple(index): j for j, index in enumerate(held[0].tolist())}  # of thread 0
    found = []
    for i in range(whole.registers):
        j = places.get(tuple(asked[0, i].tolist()))
        if j is None or not np.array_equal(held[:, j], asked[:, i]):
            raise TilusError(
                f"{op}: register {i} of {whole} meets elements that {part} keeps in other threads"
                f" or registers: give the operand the layout reduce(...) of the other"
            )
        found.append(j)
    return found
