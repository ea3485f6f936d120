"""Software pipelining: the copies of later turns are under way while a turn computes."""

from dataclasses import dataclass, replace

from tilus.dtypes import u8
from tilus.errors import TilusError
from tilus.ir import (
    Do,
    For,
    Global,
    If,
    Let,
    Program,
    Scalar,
    Set,
    Shared,
    Statement,
    Tensor,
    binary,
    substitute,
    walk,
)
from tilus.isa.addressing import aligned, bytes_of
from tilus.isa.base import Body, Effect, Inst, performed, split_copies
from tilus.isa.memory import AllocateShared, CommitGroup, ViewShared, WaitGroup
from tilus.isa.synchronization import Synchronize
from tilus.passes.rewrite import (
    Names,
    defined,
    named,
    reads,
    renamed,
    rewrite,
    site,
    with_scalars,
)


def pipeline(program: Program) -> Program:
    """Every loop of n stages with the copies of n - 1 turns under way, in rings of n places.

    The copies of turn i go to place i % n of a ring for each tensor that they fill. n - 1 turns are
    copied ahead of the loop; a turn waits for the oldest copies, which also tells that everybody is
    done with the turn before, starts those of the turn n - 1 later in the place that is free, and
    computes.
    """
    names = Names(program)
    rings: dict[str, Do] = {}
    for loop in walk(program.body):
        if isinstance(loop, For) and loop.stages != 1:
            for shared in staged(loop):
                require_own(loop, shared, program.body)
                rings[shared.name] = ring(shared, loop.stages, names)

    def rule(statement: Statement) -> Body:
        match statement:
            case Do(AllocateShared(), Shared(name)) if name in rings:
                return (rings[name],)
            case For(stages=stages) if stages != 1:
                return Staging(statement, rings, names).pipelined()
        return (statement,)

    return replace(program, body=rewrite(program.body, rule))


def staged(loop: For) -> list[Shared]:
    """The tensors that the asynchronous copies of a turn fill."""
    copies, _ = split_copies(loop.body)
    filled = [t for inst, _ in performed(copies) if inst.asynchronous for t in inst.written]
    return [t for t in dict.fromkeys(filled) if isinstance(t, Shared)]


def require_own(loop: For, shared: Shared, body: Body) -> None:
    """A tensor that copies of `loop` fill is the loop's alone: after it there are many."""
    inside = {id(do) for _, do in performed((loop,))}
    for inst, do in performed(body):
        if id(do) not in inside and shared in inst.operands:
            raise refused(loop, f"{site(do)} uses {shared.name} outside, which its copies fill")
        if do.out == shared and not isinstance(inst, AllocateShared):
            raise refused(loop, f"{site(do)} is no allocation, and its copies fill {shared.name}")


def ring(shared: Shared, stages: int, names: Names) -> Do:
    """The memory of so many tensors like `shared`."""
    inst = AllocateShared(u8, (stages, stage_bytes(shared)))
    return Do(inst, named(inst, names.fresh("s")))


def stage_bytes(shared: Shared) -> int:
    """From one stage to the next."""
    return aligned(bytes_of(shared), bytes_of(shared))


def refused(loop: For, why: str) -> TilusError:
    return TilusError(f"the loop over {loop.var} in {loop.stages} stages: {why}")


@dataclass(frozen=True)
class Staging:
    """One loop on its way into stages."""

    loop: For
    rings: dict[str, Do]
    names: Names

    def pipelined(self) -> Body:
        loop, var = self.loop, self.loop.var
        self.require_independent_copies()
        ahead, copies = loop.stages - 1, self.copies
        prologue = [
            statement
            for turn in range(ahead)
            for statement in (*self.copied(loop.start + turn, turn), Do(CommitGroup(), None))
        ]
        place = binary("-", var, loop.start)
        body = (
            Do(WaitGroup(ahead - 1), None),
            Do(Synchronize(), None),
            *self.copied(var + ahead, (place + ahead) % loop.stages),
            Do(CommitGroup(), None),
            *self.placed((*without_copies(copies), *self.rest), place % loop.stages),
        )
        return (
            *prologue,
            replace(loop, body=body, stages=1),
            Do(WaitGroup(0), None),
            Do(Synchronize(), None),
        )

    @property
    def copies(self) -> Body:
        return split_copies(self.loop.body)[0]

    @property
    def rest(self) -> Body:
        return split_copies(self.loop.body)[1]

    def copied(self, turn: Scalar, place: Scalar) -> Body:
        """The copies of a turn, if there is one, to a place of the rings."""
        var = self.loop.var.name
        body = rewrite(
            self.copies, lambda s: [with_scalars(s, lambda e: substitute(e, {var: turn}))]
        )
        fresh = {name: self.names.fresh(name) for s in walk(body) if (name := defined(s))}
        there = binary("<", turn, self.loop.stop)
        body = self.placed(renamed(body, fresh), place)
        match there:
            case int():
                return body if there else ()
        return (If(there, body),)

    def placed(self, body: Body, place: Scalar) -> Body:
        """`body` with views of one place of the rings for the tensors that the copies fill."""
        views: list[Statement] = []
        names: dict[str, str] = {}
        for shared in staged(self.loop):
            memory = self.rings[shared.name].out
            assert isinstance(memory, Shared)
            offset = binary("*", place, stage_bytes(shared))
            view = ViewShared(memory, shared.dtype, shared.shape, shared.swizzle, offset)
            names[shared.name] = self.names.fresh("s")
            views.append(Do(view, named(view, names[shared.name])))
        return (*views, *renamed(body, names))

    def require_independent_copies(self) -> None:
        """The copies of a turn follow from its number, so they may start before the turn does."""
        loop, copies, rest = self.loop, self.copies, self.rest
        if loop.stages < 2 or not copies:
            raise refused(loop, "want 2 stages or more, and a body that starts with copy_async")
        for inst, do in performed(copies):
            if not inst.asynchronous and inst.effect != Effect.PURE:
                raise refused(loop, f"{site(do)} comes before its last copy: let copies come first")
        changed = {s.var.name for s in walk(loop.body) if isinstance(s, Set)}
        asked = {name for s in walk(copies) for name in reads(s)}
        if both := sorted(asked & changed):
            raise refused(loop, f"its copies follow from {', '.join(both)}, which the body sets")
        sources = {t.pointer for inst, _ in performed(copies) for t in globals_of(inst.operands)}
        for inst, do in performed(rest):
            if both := sorted(sources & {t.pointer for t in globals_of(inst.written)}):
                raise refused(loop, f"{site(do)} writes {both[0]}, from which later turns copy")


def globals_of(tensors: list[Tensor]) -> list[Global]:
    return [t for t in tensors if isinstance(t, Global)]


def without_copies(body: Body) -> Body:
    """What else `body` names, for those who read it."""

    def rule(statement: Statement) -> Body:
        match statement:
            case Do(Inst() as inst) if inst.asynchronous:
                return ()
            case For() | If() if not [s for s in walk((statement,)) if isinstance(s, Let | Do)]:
                return ()
        return (statement,)

    return rewrite(body, rule)
