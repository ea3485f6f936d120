"""One operation per element. An operation is one row of `OPS`."""

from typing import Any, NamedTuple

import numpy as np

from tilus.dtypes import DType, bf16, boolean, f16, f32, i32, u8, u32
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Inst, Known, Tile, Writer, every, instruction
from tilus.isa.spelling import arithmetic, kind
from tilus.layout import Layout, local, reduce, spatial

FLOAT = (f16, bf16, f32)
NUMBER = (*FLOAT, i32, u32)
WHOLE = (i32, u32)


def multiply_add(a: Tile, b: Tile, c: Tile) -> Tile:
    """a * b + c, rounded once by the caller."""
    return a * b + c


def divide(a: Tile, b: Tile) -> Tile:
    """a / b; of integers the quotient cut towards zero, all ones where b is 0."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    nothing = b == 0
    quotient = np.abs(a) // np.where(nothing, 1, np.abs(b))
    return np.where(nothing, -1, np.where((a < 0) != (b < 0), -quotient, quotient))


def modulo(a: Tile, b: Tile) -> Tile:
    """What a division cut towards zero leaves over: it has the sign of a; a where b is 0."""
    if a.dtype.kind == "f":
        return np.asarray(np.fmod(a, b))
    return np.asarray(np.where(b == 0, a, np.fmod(a, np.where(b == 0, 1, b))))


def clip(a: Tile, low: Tile, high: Tile) -> Tile:
    """a, but not below low nor above high."""
    return np.asarray(np.fmin(np.fmax(a, low), high))


def relu(a: Tile) -> Tile:
    """a where it is positive, else 0."""
    return np.where(a > 0, a, 0)


def shift_left(a: Tile, by: Tile) -> Tile:
    """a times 2 to the `by`; bits moved out of the word are gone, however far."""
    return np.where(by < 32, a << np.minimum(by, 31), 0)


def shift_right(a: Tile, by: Tile) -> Tile:
    """a through 2 to the `by`, whole."""
    return np.where(by < 32, a >> np.minimum(by, 31), 0)


class Op(NamedTuple):
    run: Any  # the meaning, on NumPy arrays of float64 or int64
    code: str  # the code, on scalars
    accepts: tuple[DType, ...]
    pair: str = ""  # the code for two float16 in a word, where the chip has it
    gives: DType | None = None  # where that is not what it takes
    chooses: bool = False  # the first operand is a bool that chooses among the others
    nearly: bool = False  # the chip's code is wrong in the last bits


SIGNED, BITS = (*FLOAT, i32), (*WHOLE, boolean)
OPS = {
    "add":           Op(np.add,           "{} + {}",          NUMBER, "add_f16_pair({}, {})"),
    "sub":           Op(np.subtract,      "{} - {}",          NUMBER, "sub_f16_pair({}, {})"),
    "mul":           Op(np.multiply,      "{} * {}",          NUMBER, "mul_f16_pair({}, {})"),
    "div":           Op(divide,           "divide({}, {})",   NUMBER),
    "mod":           Op(modulo,           "modulo({}, {})",   NUMBER),
    "max":           Op(np.fmax,          "max({}, {})",      NUMBER),
    "min":           Op(np.fmin,          "min({}, {})",      NUMBER),
    "clip":          Op(clip,             "min(max({}, {}), {})", NUMBER),
    "abs":           Op(np.abs,           "magnitude({})",    SIGNED),
    "neg":           Op(np.negative,      "-{}",              SIGNED, "({} ^ 0x80008000u)"),
    "relu":          Op(relu,             "relu({})",         SIGNED),
    "fma":           Op(multiply_add,     "fmaf({}, {}, {})", FLOAT, "fma_f16_pair({}, {}, {})"),
    "sqrt":          Op(np.sqrt,          "sqrtf({})",        FLOAT),
    "rsqrt":         Op(lambda a: 1 / np.sqrt(a), "rsqrtf({})", FLOAT, nearly=True),
    "exp":           Op(np.exp,           "expf({})",         FLOAT, nearly=True),
    "log":           Op(np.log,           "logf({})",         FLOAT, nearly=True),
    "less":          Op(np.less,          "{} < {}",          NUMBER, gives=boolean),
    "less_equal":    Op(np.less_equal,    "{} <= {}",         NUMBER, gives=boolean),
    "greater":       Op(np.greater,       "{} > {}",          NUMBER, gives=boolean),
    "greater_equal": Op(np.greater_equal, "{} >= {}",         NUMBER, gives=boolean),
    "equal":         Op(np.equal,         "{} == {}",         NUMBER, gives=boolean),
    "not_equal":     Op(np.not_equal,     "{} != {}",         NUMBER, gives=boolean),
    "where":         Op(np.where,         "{} ? {} : {}",     NUMBER, chooses=True),
    "bit_and":       Op(np.bitwise_and,   "{} & {}",          BITS),
    "bit_or":        Op(np.bitwise_or,    "{} | {}",          BITS),
    "xor":           Op(np.bitwise_xor,   "{} ^ {}",          BITS),
    "bit_not":       Op(np.invert,        "~{}",              WHOLE),
    "shift_left":    Op(shift_left,       "shifted_left({}, {})",  (u32,)),
    "shift_right":   Op(shift_right,      "shifted_right({}, {})", (u32,)),
}  # fmt: skip


@instruction
class Elementwise(Inst):
    """Apply `op` to the elements of `args`, which agree in dtype.

    Floats are computed in float32 and rounded once; integers wrap around. Comparisons give a bool
    (1 or 0), and `where` takes one before the two that it chooses from. Integers divide towards
    zero, by zero to all ones; max, min and clip pass over NaN. An operand whose extent is 1 in a
    dimension is broadcast along it; its layout must put the element that a thread needs into that
    thread (for an operand of layout `reduce(layout, dims)` that is so).
    """

    op: str
    args: tuple[Register, ...]

    def result(self) -> Register:
        if self.op not in OPS:
            raise TilusError(f"no operation {self.op!r}: there are {', '.join(OPS)}")
        op = OPS[self.op]
        if len(self.args) != arity(op):
            raise TilusError(f"{self.op} takes {arity(op)} operands, not {len(self.args)}")
        types = [arg.dtype for arg in self.args]
        if types[-1] not in op.accepts or types != operand_types(op, types[-1]):
            after = "a bool and then " if op.chooses else ""
            raise TilusError(
                f"{self.op} takes {after}one of {list(op.accepts)}, not {types}: cast first"
            )
        whole = max(self.args, key=lambda arg: int(np.prod(arg.shape)))
        for arg in self.args:
            sources(self.op, whole.layout, arg.layout)
        return Register("", op.gives or types[-1], whole.layout)

    def relates(self, known: Known) -> Known:
        """Tiles of one shape lie alike; one that is broadcast lies as a reduction of the whole."""
        shape = self.result().shape
        large = ["", *(arg.name for arg in self.args if arg.shape == shape)]
        whole = next((known[name] for name in large if name in known), None)
        if whole is None:
            return {}
        alike = dict.fromkeys(large[:2], whole)  # the result lies as the first does
        parts = {arg.name: broadcast_part(whole, arg.shape) for arg in self.args}
        met = {name for name in parts if name in known and agrees(whole, known[name])}
        return {name: layout for name, layout in parts.items() if name not in met} | alike

    def run(self, block: Block, *args: Tile) -> Tile:
        op = OPS[self.op]
        dtype = op.gives or self.args[-1].dtype
        with np.errstate(all="ignore"):
            exact = op.run(*(arg.dtype.values(a) for arg, a in zip(self.args, args, strict=True)))
        if dtype.kind == "float" or dtype == boolean:
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
        tags = [kind(arg.dtype) for arg in self.args]
        for i in range(out.layout.registers):
            values = (f"get<{t}, {r[i]}>({w})" for t, w, r in zip(tags, words, of, strict=True))
            code = op.code.format(*values)
            cu.line(f"set<{tag}, {i}>({cu.words(out)}, ({c_type})({code}));")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = spatial(8, 4) * local(1, 2)
        names = ("r0", "r1", "r2")
        same = [
            cls(name, tuple(map(Register, names, operand_types(op, t), [tile] * 3)))
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


@instruction
class Broadcast(Inst):
    """Repeat `src` along the dimensions in which its extent is 1, into a tile in `layout`.

    As for the operand of an elementwise operation, each thread must hold what it will need.
    """

    src: Register
    layout: Layout

    def result(self) -> Register:
        sources(self.name, self.layout, self.src.layout)
        return Register("", self.src.dtype, self.layout)

    def run(self, block: Block, src: Tile) -> Tile:
        return np.broadcast_to(src, self.layout.shape)

    def cuda(self, cu: Writer, out: Register) -> None:
        bits, new, old = out.dtype.bits, cu.words(out), cu.words(self.src)
        for i, r in enumerate(sources(self.name, self.layout, self.src.layout)):
            cu.line(f"set_bits<{bits * i}, {bits}>({new}, get_bits<{bits * r}, {bits}>({old}));")

    @classmethod
    def samples(cls) -> list[Inst]:
        wide = local(2, 2) * spatial(8, 4) * local(1, 2)
        return [cls(Register("r0", f16, reduce(wide, (0,))), wide),
                cls(Register("r0", u8, reduce(wide, (0, 1))), wide)]  # fmt: skip


def arity(op: Op) -> int:
    """How many operands `op` takes."""
    return op.code.count("{}")


def operand_types(op: Op, dtype: DType) -> list[DType]:
    """What `op` takes where it is done on `dtype`."""
    return [boolean if op.chooses and i == 0 else dtype for i in range(arity(op))]


def spread(layout: Layout) -> str:
    """Over how many threads, in words."""
    return "" if layout.is_open else f" over {layout.threads} threads"


def broadcast_part(whole: Layout, shape: tuple[int, ...]) -> Layout:
    """How a tile of `shape` lies that is broadcast to `whole`."""
    return reduce(whole, [d for d, n in enumerate(shape) if n != whole.shape[d]])


def agrees(whole: Layout, part: Layout) -> bool:
    """Whether every thread holds the elements of `part` that its elements of `whole` meet."""
    try:
        return bool(sources("", whole, part))
    except TilusError:
        return False


def sources(op: str, whole: Layout, part: Layout) -> list[int]:
    """For each register of `whole` the register of `part` with the element that it meets.

    `part` is broadcast where its extent is 1; the answer must be the same for every thread.
    """
    if part == whole and not whole.is_open:
        return list(range(whole.registers))
    fits = len(part.shape) == len(whole.shape) and all(
        p in (1, w) for p, w in zip(part.shape, whole.shape, strict=True)
    )
    if fits and (part.is_open or whole.is_open):
        return []
    if not fits or part.threads != whole.threads:
        raise TilusError(
            f"{op}: a tile {part.shape}{spread(part)} does not broadcast to"
            f" {whole.shape}{spread(whole)}"
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
