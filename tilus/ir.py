"""The program as a grammar: scalar expressions, tensors, statements.

    Program   = name, parameters: Parameter*, grid: Expr x 3, threads, body: Statement*
    Parameter = Pointer(name, dtype) | Integer(name, multiple_of)
    Expr      = int | Var(name) | Binary(op, Expr, Expr)
    Tensor    = Global(name, dtype, shape, strides, pointer) | Shared(name, dtype, shape, swizzle)
              | Register(name, dtype, layout)
    Statement = Do(instruction, out: Tensor | Var | None) | Let(var, value) | Set(var, value)
              | For(var, start, stop, unroll, body, stages) | While(condition, body) | Break
              | If(condition, then, otherwise) | ThreadGroup(first, count, body)

Every node is a value: equal content is equal and hashes alike, so a program is data that can be
printed, sent, hashed and compared. Tensors and variables are told apart by their names, which are
unique in a program. Indices are 32-bit and never negative, so // and % mean the same in Python and
in C.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import gcd
from typing import NamedTuple

from tilus.dtypes import DType
from tilus.errors import TilusError
from tilus.layout import Layout

GRID = ("block_x", "block_y", "block_z")
ALONE = (1, 1, 1)  # a cluster of one block
UNBOUNDED = 1 << 30  # the divisor of zero: everything divides it


class Operator(NamedTuple):
    run: Callable[[int, int], int]  # the meaning, on integers
    code: str  # the code, on C expressions


OPERATORS = {
    "+":   Operator(operator.add,      "({} + {})"),
    "-":   Operator(operator.sub,      "({} - {})"),
    "*":   Operator(operator.mul,      "({} * {})"),
    "//":  Operator(operator.floordiv, "({} / {})"),
    "%":   Operator(operator.mod,      "({} % {})"),
    "<":   Operator(operator.lt,       "({} < {})"),
    "<=":  Operator(operator.le,       "({} <= {})"),
    ">":   Operator(operator.gt,       "({} > {})"),
    ">=":  Operator(operator.ge,       "({} >= {})"),
    "==":  Operator(operator.eq,       "({} == {})"),
    "!=":  Operator(operator.ne,       "({} != {})"),
    "&":   Operator(operator.and_,     "({} & {})"),
    "|":   Operator(operator.or_,      "({} | {})"),
    "^":   Operator(operator.xor,      "({} ^ {})"),
    "min": Operator(min,               "min({}, {})"),
    "max": Operator(max,               "max({}, {})"),
}  # fmt: skip


@dataclass(frozen=True)
class Expr:
    """A 32-bit integer that is known when the program runs."""

    def __add__(self, other: "Scalar") -> "Scalar":
        return binary("+", self, other)

    def __radd__(self, other: int) -> "Scalar":
        return binary("+", other, self)

    def __sub__(self, other: "Scalar") -> "Scalar":
        return binary("-", self, other)

    def __rsub__(self, other: int) -> "Scalar":
        return binary("-", other, self)

    def __mul__(self, other: "Scalar") -> "Scalar":
        return binary("*", self, other)

    def __rmul__(self, other: int) -> "Scalar":
        return binary("*", other, self)

    def __floordiv__(self, other: "Scalar") -> "Scalar":
        return binary("//", self, other)

    def __rfloordiv__(self, other: int) -> "Scalar":
        return binary("//", other, self)

    def __mod__(self, other: "Scalar") -> "Scalar":
        return binary("%", self, other)

    def __rmod__(self, other: int) -> "Scalar":
        return binary("%", other, self)

    def __lt__(self, other: "Scalar") -> "Scalar":
        return binary("<", self, other)

    def __le__(self, other: "Scalar") -> "Scalar":
        return binary("<=", self, other)

    def __gt__(self, other: "Scalar") -> "Scalar":
        return binary(">", self, other)

    def __ge__(self, other: "Scalar") -> "Scalar":
        return binary(">=", self, other)

    def __and__(self, other: "Scalar") -> "Scalar":
        return binary("&", self, other)

    def __or__(self, other: "Scalar") -> "Scalar":
        return binary("|", self, other)

    def __xor__(self, other: "Scalar") -> "Scalar":
        return binary("^", self, other)

    def __rand__(self, other: int) -> "Scalar":
        return binary("&", other, self)

    def __ror__(self, other: int) -> "Scalar":
        return binary("|", other, self)

    def __rxor__(self, other: int) -> "Scalar":
        return binary("^", other, self)

    def __bool__(self) -> bool:
        raise TilusError(
            f"the value of {self} is known only when the kernel runs: branch on it with t.when(...)"
        )


Scalar = Expr | int


@dataclass(frozen=True)
class Var(Expr):
    """A scalar by its name: a parameter, a loop variable, a block index, a `let`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Binary(Expr):
    """Two scalars under one row of `OPERATORS`."""

    op: str
    a: Scalar
    b: Scalar

    def __str__(self) -> str:
        call = self.op.isalpha()
        return f"{self.op}({self.a}, {self.b})" if call else f"({self.a} {self.op} {self.b})"


def binary(op: str, a: Scalar, b: Scalar) -> Scalar:
    """`a op b`, with constants folded and the laws below applied."""
    match op, a, b:
        case _, bool(), _:
            return binary(op, int(a), b)  # what Python knew to be true
        case _, _, bool():
            return binary(op, a, int(b))
        case _, int(), int():
            if op in ("//", "%") and b == 0:
                raise TilusError(f"{a} {op} 0: division by zero")
            return int(OPERATORS[op].run(a, b))
        case ("+" | "-" | "|" | "^", x, 0) | ("+" | "|" | "^", 0, x):
            return x  # x + 0 -> x
        case ("*" | "//", x, 1) | ("*", 1, x):
            return x  # x * 1 -> x
        case ("*" | "&", _, 0) | ("*" | "&", 0, _) | ("%", _, 1):
            return 0  # x * 0 -> 0
        case "+", Binary("+", x, int(c)), int(d):
            return binary("+", x, c + d)  # (x + c) + d -> x + (c + d)
        case "//", Binary("//", x, int(c)), int(d):
            return binary("//", x, c * d)  # (x // c) // d -> x // (c * d)
        case "//", Binary("*", x, int(c)), int(d) if c % d == 0:
            return binary("*", x, c // d)  # (x * c) // d -> x * (c // d)
        case "%", Binary("*", _, int(c)), int(d) if c % d == 0:
            return 0  # (x * c) % d -> 0, where d divides c
    return Binary(op, a, b)


def equal(a: Scalar, b: Scalar) -> Scalar:
    """1 where the two are equal (`==` itself compares expressions by content)."""
    return binary("==", a, b)


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """The smaller of the two."""
    return binary("min", a, b)


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """The larger of the two."""
    return binary("max", a, b)


def ceil_div(a: Scalar, b: Scalar) -> Scalar:
    """`a / b`, rounded up."""
    return (a + (b - 1)) // b


def evaluate(e: Scalar, env: dict[str, int]) -> int:
    """The value of `e` where `env` says what each variable is."""
    match e:
        case Var(name):
            return env[name]
        case Binary(op, a, b):
            left, right = evaluate(a, env), evaluate(b, env)
            if op in ("//", "%") and right == 0:
                raise TilusError(f"{e} divides by zero where {b} is 0")
            return int(OPERATORS[op].run(left, right))
    return int(e)  # type: ignore[arg-type]


def divisor(e: Scalar, facts: dict[str, int]) -> int:
    """A number that divides `e` for sure; `facts` says what divides each variable."""
    match e:
        case int():
            return abs(e) or UNBOUNDED
        case Var(name):
            return facts.get(name, 1)
        case Binary("*", a, b):
            return min(divisor(a, facts) * divisor(b, facts), UNBOUNDED)
        case Binary("+" | "-" | "min" | "max", a, b):
            return gcd(divisor(a, facts), divisor(b, facts))
        case Binary("//", a, int(c)) if divisor(a, facts) % c == 0:
            return divisor(a, facts) // c
        case Binary("%", a, int(c)):
            return gcd(divisor(a, facts), c)
    return 1


def substitute(e: Scalar, values: dict[str, Scalar]) -> Scalar:
    """`e` with `values` for variables, simplified; who divides by a zero keeps its variable."""
    match e:
        case Var(name):
            return values.get(name, e)
        case Binary(op, a, b):
            a, divisor = substitute(a, values), substitute(b, values)
            zero = op in ("//", "%") and divisor == 0
            return Binary(op, a, b) if zero else binary(op, a, divisor)
    return e


def variables(e: Scalar) -> set[str]:
    """The names that `e` reads."""
    match e:
        case Var(name):
            return {name}
        case Binary(_, a, b):
            return variables(a) | variables(b)
        case Expr():
            return {str(e)}  # a scalar of generated text, which no program knows
    return set()


@dataclass(frozen=True)
class Pointer:
    """A parameter: the address of elements of `dtype` in global memory, 16-byte aligned."""

    name: str
    dtype: DType


@dataclass(frozen=True)
class Integer:
    """A parameter: an int32 that the caller promises to be a multiple of `multiple_of`."""

    name: str
    multiple_of: int = 1


Parameter = Pointer | Integer


@dataclass(frozen=True)
class Swizzle:
    """An element offset with `bits` of its bits, from `source` up, xored into those at `target`."""

    bits: int
    source: int
    target: int

    def __call__(self, offset: Scalar) -> Scalar:
        chosen = (offset // (1 << self.source)) % (1 << self.bits)
        return offset ^ (chosen * (1 << self.target))


PLAIN = Swizzle(0, 0, 0)


@dataclass(frozen=True)
class Tensor:
    """A place that holds elements of `dtype`; `name` is unique in its program."""

    name: str
    dtype: DType


@dataclass(frozen=True)
class Global(Tensor):
    """Elements in global memory: index i is at `pointer` + sum of i[d] * strides[d]."""

    shape: tuple[Scalar, ...]
    strides: tuple[Scalar, ...]
    pointer: str


@dataclass(frozen=True)
class Shared(Tensor):
    """Elements in the block's shared memory, row-major, the offset then swizzled."""

    shape: tuple[int, ...]
    swizzle: Swizzle = PLAIN


@dataclass(frozen=True)
class Register(Tensor):
    """A tile whose elements live in the threads' registers, as `layout` says."""

    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def bits_held(self) -> int:
        """How many bits of the tile one thread holds."""
        return self.layout.registers * self.dtype.bits


class Instruction:
    """What a `Do` performs; `tilus.isa.base` says what an instruction states about itself."""


@dataclass(frozen=True)
class Do:
    """`where` says which line of the kernel asked for it: "matmul.py:12: c = t.dot(a, b, c)"."""

    instruction: Instruction
    out: Tensor | Var | None
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Let:
    var: Var
    value: Scalar


@dataclass(frozen=True)
class Set:
    var: Var
    value: Scalar


@dataclass(frozen=True)
class For:
    """`unroll` is 1 for a plain loop, n for n copies of the body a turn, 0 for all of it.

    With `stages` above 1 the body starts with asynchronous copies: those of a turn are complete,
    and the block synchronised, when the rest of it starts; so many turns may be under way at once.
    """

    var: Var
    start: Scalar
    stop: Scalar
    unroll: int
    body: tuple["Statement", ...]
    stages: int = 1


@dataclass(frozen=True)
class While:
    condition: Scalar
    body: tuple["Statement", ...]


@dataclass(frozen=True)
class Break:
    pass


@dataclass(frozen=True)
class If:
    condition: Scalar
    then: tuple["Statement", ...]
    otherwise: tuple["Statement", ...] = ()


@dataclass(frozen=True)
class ThreadGroup:
    """`body` is for the threads first .. first + count - 1 alone, who count from 0 in there.

    Groups that follow each other run at the same time. With `registers` each thread may use so many
    from then on: what one group gives back another can take.
    """

    first: int
    count: int
    body: tuple["Statement", ...]
    registers: int = 0


Statement = Do | Let | Set | For | While | Break | If | ThreadGroup


@dataclass(frozen=True)
class Program:
    """What one block of `threads` threads does; `grid` is how many blocks there are.

    So many neighbours as `cluster` says, along each dimension of the grid, run at the same time.
    So many registers may be used that `blocks_per_sm` blocks fit onto a multiprocessor.
    """

    name: str
    parameters: tuple[Parameter, ...]
    grid: tuple[Scalar, Scalar, Scalar]
    threads: int
    body: tuple[Statement, ...]
    blocks_per_sm: int = 1
    cluster: tuple[int, int, int] = ALONE

    @property
    def facts(self) -> dict[str, int]:
        """What is promised to divide each integer parameter."""
        return {p.name: p.multiple_of for p in self.parameters if isinstance(p, Integer)}


def walk(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement of `body`, outer before inner, in program order."""
    for statement in body:
        yield statement
        for inner in inner_bodies(statement):
            yield from walk(inner)


def inner_bodies(statement: Statement) -> tuple[tuple[Statement, ...], ...]:
    """The bodies that `statement` holds."""
    match statement:
        case For() | While() | ThreadGroup():
            return (statement.body,)
        case If():
            return (statement.then, statement.otherwise)
    return ()
