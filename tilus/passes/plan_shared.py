"""Shared memory that is used again."""

from dataclasses import dataclass, replace

from tilus.dtypes import u8
from tilus.ir import ALONE, Break, Do, For, Program, Shared, Statement, While, inner_bodies, walk
from tilus.isa.addressing import aligned, bytes_of
from tilus.isa.base import Body, Inst
from tilus.isa.memory import AllocateShared, ViewShared
from tilus.passes.rewrite import Names, named, rewrite


def plan_shared(program: Program) -> Program:
    """Tensors in shared memory whose lives are apart share bytes, where that saves any.

    One life ends before another starts if the block synchronises in between, when all asynchronous
    copies into the former were waited for. All tensors then become views of one allocation. What
    instructions set aside for themselves stays apart, and so does what is not certain to be
    reached: the inside of a branch orders nothing, and a life touches the whole of a loop. Nor do
    blocks of a cluster share any: others may read them.
    """
    lives = lives_of(program.body)
    if not lives or program.cluster != ALONE:  # other blocks of a cluster may touch them
        return program
    offsets = placed(lives)
    total = max(offsets[life.tensor.name] + life.bytes for life in lives)
    apart = 0
    for life in lives:
        apart = aligned(apart, life.bytes) + life.bytes
    if total >= apart:
        return program
    allocation = AllocateShared(u8, (total,))
    arena = named(allocation, Names(program).fresh("s"))
    assert isinstance(arena, Shared)

    def rule(statement: Statement) -> list[Statement]:
        match statement:
            case Do(AllocateShared(dtype, shape, swizzle), Shared(name)):
                view = ViewShared(arena, dtype, shape, swizzle, offsets[name])
                return [replace(statement, instruction=view)]
        return [statement]

    return replace(program, body=(Do(allocation, arena), *rewrite(program.body, rule)))


@dataclass(frozen=True)
class Step:
    """An instruction in program order. `span` is the outermost loop that it is in, or itself.

    `home` tells bodies apart; in the program's own, (), every step is performed, and once.
    """

    inst: Inst
    out: object
    number: int
    span: tuple[int, int]
    home: tuple[int, ...]


@dataclass(frozen=True)
class Life:
    """From the first to the last step that touches a tensor; `over` is the step that ends it: the
    block has synchronised, all copies complete. None if it never does."""

    tensor: Shared
    first: int
    over: int | None

    @property
    def bytes(self) -> int:
        return aligned(bytes_of(self.tensor), bytes_of(self.tensor))

    def before(self, other: "Life") -> bool:
        return self.over is not None and self.over < other.first


def lives_of(body: Body) -> list[Life]:
    """The life of every tensor that is allocated, in program order."""
    steps = steps_of(body, 0, ())
    leaves = any(isinstance(s, Break) for s in walk(body))
    return [life_of(step, steps, leaves) for step in steps if isinstance(step.inst, AllocateShared)]


def steps_of(body: Body, start: int, home: tuple[int, ...]) -> list[Step]:
    """The instructions in `body`, numbered from `start` on."""
    found: list[Step] = []
    for statement in body:
        at = start + len(found)
        if isinstance(statement, Do):
            assert isinstance(statement.instruction, Inst)
            found.append(Step(statement.instruction, statement.out, at, (at, at), home))
            continue
        inner: list[Step] = []
        for k, part in enumerate(inner_bodies(statement)):
            inner += steps_of(part, at + len(inner), (*home, at, k))
        if isinstance(statement, For | While):
            inner = [replace(step, span=(at, at + len(inner) - 1)) for step in inner]
        found += inner
    return found


def life_of(allocation: Step, steps: list[Step], leaves: bool) -> Life:
    """The life of a tensor; `leaves` says that some loop of the program may be left half-way."""
    tensor = allocation.out
    assert isinstance(tensor, Shared)
    names, uses = {tensor.name}, []
    for step in steps:
        touched = {t.name for t in step.inst.operands} & names
        if touched and isinstance(step.out, Shared):
            names.add(step.out.name)  # a view
        elif touched:
            uses.append(step)
    start, end = allocation.span
    spans = [step.span for step in uses] + [(start, end)] * (start < end)
    first = min((start for start, _ in spans), default=len(steps))
    last = max((end for _, end in spans), default=-1)
    copies = [s for s in uses if s.inst.asynchronous and {t.name for t in s.inst.written} & names]
    if any(s.inst.completion() and not s.inst.asynchronous for s in uses):
        return Life(tensor, first, None)  # its end is told by a barrier, or by more than one kind
    if copies:
        arrived = max(max(copy.span[1], closed(copy, steps, leaves)) for copy in copies)
        last = max(last, after(arrived, [s for s in steps if s.inst.completes], steps))
    over = after(last, [s for s in steps if s.inst.meets], steps)
    return Life(tensor, first, over if over < len(steps) else None)


def closed(copy: Step, steps: list[Step], leaves: bool) -> int:
    """The last step in which the group of a copy may be closed; beyond all if none surely does."""
    for step in steps[copy.number :]:
        here = step.home == copy.home and not leaves
        if step.inst.closes_group and (here or not step.home):
            return step.span[1]
    return len(steps)


def after(number: int, candidates: list[Step], steps: list[Step]) -> int:
    """The first candidate that every run performs after a step; beyond all if there is none."""
    return min(
        (s.number for s in candidates if s.number > number and not s.home), default=len(steps)
    )


def placed(lives: list[Life]) -> dict[str, int]:
    """An offset for each tensor: the first that is free of tensors that live at the same time."""
    offsets: dict[str, int] = {}
    done: list[Life] = []
    for life in lives:
        near = [o for o in done if not (o.before(life) or life.before(o))]
        taken = sorted((offsets[o.tensor.name], offsets[o.tensor.name] + o.bytes) for o in near)
        at = 0
        for start, end in taken:
            if at + life.bytes <= start:
                break
            at = aligned(max(at, end), life.bytes)
        offsets[life.tensor.name] = at
        done.append(life)
    return offsets
