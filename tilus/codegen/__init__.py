"""Program -> CUDA C++ text. An instruction's code is what its `cuda` writes here.

The text calls functions of the prelude (`tilus.cuh`) and holds no inline assembly, so the same
text compiles for a GPU and for the host.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tilus.errors import TilusError, asked_by
from tilus.ir import (
    OPERATORS,
    Binary,
    Break,
    Do,
    For,
    Global,
    If,
    Integer,
    Let,
    Parameter,
    Pointer,
    Program,
    Register,
    Scalar,
    Set,
    Shared,
    Statement,
    Var,
    While,
    divisor,
    evaluate,
    walk,
)
from tilus.isa.base import Inst
from tilus.limits import GENERATED, check_grid, require
from tilus.target import DEFAULT, Target, target

# bytes: what swizzled accesses ask for, what the copy engine does, where less would do
SHARED_ALIGNMENT, LEAST_ALIGNMENT = 1024, 128


@dataclass(frozen=True)
class Source:
    """The CUDA text of a program and what a launch of it needs."""

    text: str
    entry: str
    threads: int
    shared_bytes: int


def generate(program: Program, arch: str = DEFAULT) -> Source:
    """The CUDA C++ text of `program` for an architecture."""
    cu = TextWriter(program, target(arch))
    cu.write(program.body)
    if cu.shared_bytes > cu.target.shared_bytes:
        raise TilusError(
            f"{program.name} takes {cu.shared_bytes} bytes of shared memory, and a block has at"
            f" most {cu.target.shared_bytes} on {arch}: use smaller tiles or fewer stages"
        )
    entry = f"tilus_{program.name}"  # no name that the prelude has
    parameters = ", ".join(declaration(p) for p in program.parameters)
    text = "\n".join(
        [
            '#include "tilus.cuh"',
            "",
            f"KERNEL({program.threads}, {program.blocks_per_sm}) {entry}({parameters}) {{",
            f"  BLOCK_VARIABLES({cu.shared_bytes});",
            *cu.lines,
            "}",
            "",
        ]
    )
    return Source(text, entry, program.threads, cu.shared_bytes)


def host_entry(program: Program, source: Source) -> str:
    """A C function `run_<name>` that launches `program` on the host: see `host.run`."""
    arguments = ", ".join(
        f"arguments[{i}]" if isinstance(p, Pointer) else f"*(unsigned*)arguments[{i}]"
        for i, p in enumerate(program.parameters)
    )
    return "\n".join(
        [
            f'extern "C" int run_{program.name}'
            "(void** arguments, const int* grid, int backwards, const int64_t* sizes) {",
            f"  auto kernel = [](void** arguments) {{ {source.entry}({arguments}); }};",
            f"  return launch(kernel, arguments, grid, {source.threads}, {source.shared_bytes},"
            f" backwards, sizes, {len(program.parameters)});",
            "}",
            "",
        ]
    )


def grid_of(program: Program, arguments: dict[str, Any]) -> tuple[int, int, int]:
    """How many blocks a launch with these integer arguments has."""
    integers = {p.name: arguments[p.name] for p in program.parameters if isinstance(p, Integer)}
    x, y, z = (evaluate(extent, integers) for extent in program.grid)
    check_grid(program.name, (x, y, z))
    return x, y, z


def declaration(parameter: Parameter) -> str:
    """A parameter in C."""
    match parameter:
        case Pointer(name):
            return f"void* {name}"
        case Integer(name):
            return f"const unsigned {name}"


class TextWriter:
    """The growing text; what an instruction may say is `tilus.isa.base.Writer`."""

    def __init__(self, program: Program, target: Target) -> None:
        self.name, self.threads, self.target = program.name, program.threads, target
        self.facts = dict(program.facts)
        self.shared_bytes = 0
        self.lines: list[str] = []
        self._depth = 1
        self._copies = 1  # of a line, once the loops around it are unrolled
        self._characters = 0
        self._changing = {s.var.name for s in walk(program.body) if isinstance(s, Set)}
        self._words: dict[str, str] = {}

    def write(self, body: tuple[Statement, ...]) -> None:
        for statement in body:
            self.write_statement(statement)

    def write_statement(self, statement: Statement) -> None:
        match statement:
            case Do(instruction, out, where):
                assert isinstance(instruction, Inst)
                with asked_by(where):
                    self.perform(instruction, out)
            case Let(var, value):
                if var.name not in self._changing:
                    self.facts[var.name] = divisor(value, self.facts)
                self.line(f"unsigned {var.name} = {self.expr(value)};")
            case Set(var, value):
                self.line(f"{var.name} = {self.expr(value)};")
            case For(var, start, stop, unroll, body):
                self.line("#pragma unroll" if unroll == 0 else f"#pragma unroll {unroll}")
                first = f"unsigned {var} = {self.expr(start)}"
                copies, self._copies = self._copies, self._copies * turns(statement)
                self.write_scope(f"for ({first}; {var} < {self.expr(stop)}; {var}++)", body)
                self._copies = copies
            case While(condition, body):
                self.write_scope(f"while ({self.expr(condition)})", body)
            case If(condition, then, otherwise):
                self.write_scope(f"if ({self.expr(condition)})", then)
                if otherwise:
                    self.write_scope("else", otherwise)
            case Break():
                self.line("break;")

    def write_scope(self, head: str, body: tuple[Statement, ...]) -> None:
        with self.scope(head):
            self.write(body)

    def perform(self, inst: Inst, out: object) -> None:
        require_target(inst, self.target)
        self.line(f"// {inst.name}")
        if isinstance(out, Register):
            self._words[out.name] = out.name
            self.lines.append("")
            place = len(self.lines) - 1
            inst.cuda(self, out)
            if self._words[out.name] == out.name:
                count = -(-out.bits_held // 32)
                self.lines[place] = f"{'  ' * self._depth}uint32_t {out.name}[{count}] = {{}};"
            else:
                del self.lines[place]
            return
        inst.cuda(self, out)

    def line(self, text: str) -> None:
        self._characters += len(text) * self._copies
        require(GENERATED, self._characters, self.name)
        self.lines.append("  " * self._depth + text)

    @contextmanager
    def scope(self, opening: str = "") -> Iterator[None]:
        self.line(f"{opening} {{".lstrip())
        self._depth += 1
        yield
        self._depth -= 1
        self.line("}")

    def expr(self, e: Scalar) -> str:
        match e:
            case Binary(op, a, b):
                return OPERATORS[op].code.format(self.expr(a), self.expr(b))
            case Var(name):
                return name
        return f"{e}u"

    def words(self, t: Register) -> str:
        return self._words[t.name]

    def alias(self, new: Register, old: Register) -> None:
        self._words[new.name] = self._words[old.name]

    def base(self, t: Global | Shared) -> str:
        return t.name

    def define(self, t: Global | Shared, code: str) -> None:
        self.line(f"char* const {t.name} = {code};")

    def reserve(self, bytes: int) -> int:
        to = SHARED_ALIGNMENT if bytes >= SHARED_ALIGNMENT else LEAST_ALIGNMENT
        offset = -(-self.shared_bytes // to) * to
        self.shared_bytes = offset + -(-bytes // to) * to
        return offset


def turns(loop: For) -> int:
    """How many copies of its body a loop is unrolled into."""
    match loop:
        case For(_, int(start), int(stop), 0):
            return max(1, stop - start)
    return max(1, loop.unroll)


def require_target(inst: Inst, target: Target) -> None:
    """There is code for `inst` on `target`."""
    if not any(target.supports(needed) for needed in inst.needs):
        raise TilusError(
            f"{inst.name} needs {' or '.join(inst.needs)}, and this program is compiled for"
            f" {target.name}: compile for the former, or write it with other instructions"
        )
