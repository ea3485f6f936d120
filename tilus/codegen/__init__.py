"""Program -> CUDA C++ text. An instruction's code is what its `cuda` writes here.

The text calls functions of the prelude (`tilus.cuh`) and holds no inline assembly, so the same
text compiles for a GPU and for the host.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from tilus.errors import TilusError, asked_by
from tilus.groups import WARP, check_clusters, check_groups, groups_of, named_barriers
from tilus.ir import (
    ALONE,
    GRID,
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
    ThreadGroup,
    Var,
    While,
    evaluate,
    variables,
)
from tilus.isa.addressing import aligned
from tilus.isa.base import Inst, Local, TensorMap
from tilus.limits import GENERATED, check_grid, require
from tilus.target import DEFAULT, Target, target
from tilus.values import values_of

REGISTERS = 1 << 16  # of a multiprocessor
WARPGROUP = 128
MOST_CLUSTER = 8  # blocks, on every chip that has clusters


@dataclass(frozen=True)
class Source:
    """The CUDA text of a program and what a launch of it needs."""

    text: str
    entry: str
    threads: int
    shared_bytes: int
    maps: tuple[TensorMap, ...] = ()  # parameters that come after the program's own


def generate(program: Program, arch: str = DEFAULT) -> Source:
    """The CUDA C++ text of `program` for an architecture."""
    check_groups(program)
    require_clusters(program, target(arch))
    require_registers(program)
    cu = TextWriter(program, target(arch))
    if groups_of(program):
        cu.line(f"const unsigned warp = block_warp<{program.threads}>();")
    cu.write(program.body)
    if cu.shared_bytes > cu.target.shared_bytes:
        raise TilusError(
            f"{program.name} takes {cu.shared_bytes} bytes of shared memory, and a block has at"
            f" most {cu.target.shared_bytes} on {arch}: use smaller tiles or fewer stages"
        )
    entry = f"tilus_{program.name}"  # no name that the prelude has
    cluster = "" if program.cluster == ALONE else f"CLUSTER{program.cluster} "
    head = f"KERNEL({program.threads}, {program.blocks_per_sm}) {cluster}"
    declared = [declaration(p) for p in program.parameters]
    declared += [f"TENSOR_MAP {name}" for name in cu.maps.values()]
    text = "\n".join(
        [
            '#include "tilus.cuh"',
            "",
            f"{head}{entry}({', '.join(declared)}) {{",
            f"  BLOCK_VARIABLES({cu.shared_bytes});",
            *cu.lines,
            "}",
            "",
        ]
    )
    return Source(text, entry, program.threads, cu.shared_bytes, tuple(cu.maps))


def host_entry(program: Program, source: Source) -> str:
    """A C function `run_<name>` that launches `program` on the host: see `host.run`."""
    read = {
        c_name(p.name): f"arguments[{i}]"
        if isinstance(p, Pointer)
        else f"*(unsigned*)arguments[{i}]"
        for i, p in enumerate(program.parameters)
    }
    arguments = ", ".join([*read, *(map_text(m) for m in source.maps)])
    names = " ".join(f"const auto {name} = {value};" for name, value in read.items())
    return "\n".join(
        [
            f'extern "C" int run_{program.name}'
            "(void** arguments, const int* grid, int backwards, const int64_t* sizes) {",
            f"  auto kernel = [](void** arguments) {{ {names} {source.entry}({arguments}); }};",
            f"  return launch(kernel, arguments, grid, {source.threads}, {source.shared_bytes},"
            f" backwards, {{{', '.join(map(str, program.cluster))}}}, sizes,"
            f" {len(program.parameters)});",
            "}",
            "",
        ]
    )


def map_text(map: TensorMap) -> str:
    """A tensor map on the host, in C."""
    lists = (map.shape, map.strides, map.box)
    texts = ["{" + ", ".join(scalar_text(n) for n in numbers) + "}" for numbers in lists]
    rank = len(map.shape)
    return (
        f"TensorMap{{(char*){c_name(map.pointer)}, {rank}, {map.bytes}, {map.swizzle},"
        f" {', '.join(texts)}}}"
    )


class MapNumbers(NamedTuple):
    """What `tilus.runtime.launcher.tensor_map` takes after the tensor's address."""

    bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int


def map_numbers(map: TensorMap, arguments: dict[str, Any]) -> MapNumbers:
    """The map of a launch with these arguments."""
    shape, strides = (
        tuple(evaluate(n, arguments) for n in part) for part in (map.shape, map.strides)
    )
    return MapNumbers(map.bytes, shape, strides, map.box, map.swizzle)


def grid_of(program: Program, arguments: dict[str, Any]) -> tuple[int, int, int]:
    """How many blocks a launch with these integer arguments has."""
    integers = {p.name: arguments[p.name] for p in program.parameters if isinstance(p, Integer)}
    x, y, z = (evaluate(extent, integers) for extent in program.grid)
    check_grid(program.name, (x, y, z))
    check_clusters(program, (x, y, z))
    return x, y, z


def declaration(parameter: Parameter) -> str:
    """A parameter in C."""
    match parameter:
        case Pointer(name):
            return f"void* {c_name(name)}"
        case Integer(name):
            return f"const unsigned {c_name(name)}"


class TextWriter:
    """The growing text; what an instruction may say is `tilus.isa.base.Writer`."""

    def __init__(self, program: Program, target: Target) -> None:
        self.name, self.threads, self.target = program.name, program.threads, target
        self.barrier, self._first = 0, 0
        self.maps: dict[TensorMap, str] = {}
        self._integers = set(program.facts)
        self.facts = values_of(program).divisors
        self.shared_bytes = 0
        self.lines: list[str] = []
        self._depth = 1
        self._copies = 1  # of a line, once the loops around it are unrolled
        self._characters = 0
        self._words: dict[str, str] = {}
        self._barriers = named_barriers(program)
        self._budget = REGISTERS // (program.threads * program.blocks_per_sm)

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
                self.line(f"unsigned {self.expr(var)} = {self.expr(value)};")
            case Set(var, value):
                self.line(f"{self.expr(var)} = {self.expr(value)};")
            case For(var, start, stop, unroll, body, stages):
                if stages != 1:
                    raise TilusError(
                        f"the loop over {var} has {stages} stages: run tilus.passes.pipeline first"
                    )
                self.line("#pragma unroll" if unroll == 0 else f"#pragma unroll {unroll}")
                i = self.expr(var)
                first = f"unsigned {i} = {self.expr(start)}"
                copies, self._copies = self._copies, self._copies * turns(statement)
                self.write_scope(f"for ({first}; {i} < {self.expr(stop)}; {i}++)", body)
                self._copies = copies
            case While(condition, body):
                self.write_scope(f"while ({self.expr(condition)})", body)
            case If(condition, then, otherwise):
                self.write_scope(f"if ({self.expr(condition)})", then)
                if otherwise:
                    self.write_scope("else", otherwise)
            case ThreadGroup():
                self.write_group(statement)
            case Break():
                self.line("break;")

    def write_group(self, group: ThreadGroup) -> None:
        whole = self.threads
        # asked of the warp, so that the compiler knows that its lanes go one way
        with self.scope(f"if (warp - {group.first // WARP}u < {group.count // WARP}u)"):
            self.line(f"const unsigned thread = block_thread() - {group.first}u;")
            if group.registers:
                require_warpgroups(group, self.target)
                self.line(f"set_registers<{group.registers}, {self._budget}>();")
            self._first, self.threads = group.first, group.count
            self.barrier = self._barriers[group.first, group.count]
            self.write(group.body)
            self.barrier, self._first, self.threads = 0, 0, whole

    def write_scope(self, head: str, body: tuple[Statement, ...]) -> None:
        with self.scope(head):
            self.write(body)

    def perform(self, inst: Inst, out: object) -> None:
        require_target(inst, self.target)
        require_together(inst, self._first, self.threads)
        self.line(f"// {inst.name}")
        if isinstance(out, Register):
            self._words[out.name] = words = c_name(out.name)
            self.lines.append("")
            place = len(self.lines) - 1
            inst.cuda(self, out)
            if self._words[out.name] == words:
                count = -(-out.bits_held // 32)
                self.lines[place] = f"{'  ' * self._depth}uint32_t {words}[{count}] = {{}};"
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
        return scalar_text(e)

    def words(self, t: Register) -> str:
        return self._words[t.name]

    def alias(self, new: Register, old: Register) -> None:
        self._words[new.name] = self._words[old.name]

    def base(self, t: Global | Shared) -> str:
        return c_name(t.name)

    def define(self, t: Global | Shared, code: str) -> None:
        self.line(f"char* const {c_name(t.name)} = {code};")

    def tensor_map(self, map: TensorMap) -> str:
        numbers = set().union(*(variables(n) for n in (*map.shape, *map.strides)))
        if not numbers <= self._integers:
            raise TilusError(
                f"the copy engine must know the tensor behind {map.pointer} before the kernel runs,"
                f" but its shape {map.shape} or strides {map.strides} depend on"
                f" {sorted(numbers - self._integers)}: write them with the parameters"
                f" {sorted(self._integers)}"
            )
        return self.maps.setdefault(map, f"map{len(self.maps)}")

    def reserve(self, bytes: int) -> int:
        offset = aligned(self.shared_bytes, bytes)
        self.shared_bytes = offset + aligned(bytes, bytes)
        return offset


def turns(loop: For) -> int:
    """How many copies of its body a loop is unrolled into."""
    match loop:
        case For(_, int(start), int(stop), 0):
            return max(1, stop - start)
    return max(1, loop.unroll)


def scalar_text(e: Scalar) -> str:
    """`e` in C, an unsigned int."""
    match e:
        case Binary(op, a, b):
            return OPERATORS[op].code.format(scalar_text(a), scalar_text(b))
        case Var(name):
            return c_name(name)
        case Local(name):
            return name
    return f"{e}u"


def c_name(name: str) -> str:
    """What a thing of the program is called in C, where no other name ends in an underscore."""
    return name if name in GRID else f"{name}_"


def require_target(inst: Inst, target: Target) -> None:
    """There is code for `inst` on `target`."""
    if not any(target.supports(needed) for needed in inst.needs):
        raise TilusError(
            f"{inst.name} needs {' or '.join(inst.needs)}, and this program is compiled for"
            f" {target.name}: compile for the former, or write it with other instructions"
        )


def require_together(inst: Inst, first: int, threads: int) -> None:
    """All threads that perform `inst` as one are there: whole units, counted from thread 0."""
    if first % inst.together or threads % inst.together:
        raise TilusError(
            f"{inst.name} is performed by {inst.together} threads as one, and {threads} threads"
            f" from {first} come to it: want multiples of {inst.together}"
        )


def require_clusters(program: Program, target: Target) -> None:
    """The target has clusters, and of this size on every chip."""
    if program.cluster == ALONE:
        return
    if not target.supports("sm_90"):
        raise TilusError(f"{program.name}: clusters need sm_90, there are none on {target.name}")
    if min(program.cluster) < 1 or prod(program.cluster) > MOST_CLUSTER:
        raise TilusError(
            f"{program.name}: a cluster of {program.cluster} blocks: want at most {MOST_CLUSTER}"
        )


def require_warpgroups(group: ThreadGroup, target: Target) -> None:
    """Registers move between warpgroups (PTX ISA 9.7.19.5, setmaxnreg)."""
    if not any(target.supports(needed) for needed in ("sm_90a", "sm_100a", "sm_120a")):
        raise TilusError(f"a group's registers cannot be set on {target.name}: leave them 0")
    if group.first % WARPGROUP or group.count % WARPGROUP:
        raise TilusError(
            f"the registers of {group.count} threads from {group.first}: want whole warpgroups of"
            f" {WARPGROUP} threads"
        )
    if group.registers % 8 or not 24 <= group.registers <= 256:
        raise TilusError(f"{group.registers} registers a thread: want a multiple of 8, 24 to 256")


def require_registers(program: Program) -> None:
    """What the groups of a block take together is there: else they wait for it for ever."""
    budget = REGISTERS // program.blocks_per_sm
    each = budget // program.threads // 8 * 8
    asked = {(g.first, g.count): g.registers or each for g in groups_of(program)}
    rest = program.threads - sum(count for _, count in asked)
    taken = sum(count * registers for (_, count), registers in asked.items()) + rest * each
    if any(g.registers for g in groups_of(program)) and taken > budget:
        raise TilusError(
            f"{program.name}: its groups ask for {taken} registers together, and a block has"
            f" {budget}: let some group ask for fewer"
        )
