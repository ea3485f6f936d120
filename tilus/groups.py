"""Groups of a block's threads: which run side by side, and what may not cross their borders.

Inside a group threads count from 0 and layouts spread over its threads alone, so a tile in
registers means something on one side of the border only. Memory and barriers are shared. A number
that a group sets is its own: other threads, which do not take part, still have the old one.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tilus.errors import TilusError
from tilus.ir import (
    Break,
    Do,
    For,
    Program,
    Register,
    Set,
    Statement,
    Tensor,
    ThreadGroup,
    While,
    inner_bodies,
    walk,
)
from tilus.isa.base import Inst
from tilus.passes.rewrite import reads

WARP = 32
MOST_GROUPS = 15  # named barriers of a block, without the one for all
Body = tuple[Statement, ...]


def groups_of(program: Program) -> list[ThreadGroup]:
    """All groups, in program order."""
    return [s for s in walk(program.body) if isinstance(s, ThreadGroup)]


def named_barriers(program: Program) -> dict[tuple[int, int], int]:
    """The barrier, from 1 on, at which the threads (first, count) of a group synchronise."""
    spans = dict.fromkeys((g.first, g.count) for g in groups_of(program))
    if len(spans) > MOST_GROUPS:
        raise TilusError(
            f"{program.name}: {len(spans)} different groups of threads, but a block has barriers"
            f" for {MOST_GROUPS}: let groups be of the same threads"
        )
    return {span: i + 1 for i, span in enumerate(spans)}


def side_by_side(body: Body) -> Iterator[Statement | list[ThreadGroup]]:
    """The statements one by one, but groups together that follow each other and share no thread."""
    together: list[ThreadGroup] = []
    for statement in body:
        match statement:
            case ThreadGroup() if not any(overlap(statement, other) for other in together):
                together.append(statement)
                continue
        if together:
            yield together
        match statement:
            case ThreadGroup():
                together = [statement]
            case _:
                together = []
                yield statement
    if together:
        yield together


def overlap(a: ThreadGroup, b: ThreadGroup) -> bool:
    """Whether they have a thread in common."""
    return a.first < b.first + b.count and b.first < a.first + a.count


def check_groups(program: Program) -> None:
    """`TilusError` where a group is not whole warps of the block, or something crosses a border."""
    groups = groups_of(program)
    for group in groups:
        check_group(group, program)
    check_own_numbers(program)
    inside = {id(s) for group in groups for s in walk(group.body)}
    hidden = {out.name for group in groups for out in tensors_of(group.body)}
    for statement in walk(program.body):
        if isinstance(statement, Do) and id(statement) not in inside:
            for tensor in operands_of(statement):
                if tensor.name in hidden:
                    raise TilusError(
                        f"{tensor.name} was made inside a group of threads and is used outside:"
                        " hand it over through shared memory that was allocated before"
                    )


def check_clusters(program: Program, grid: Sequence[int]) -> None:
    """`TilusError` where the grid is not made of whole clusters."""
    if any(blocks % size for blocks, size in zip(grid, program.cluster, strict=True)):
        raise TilusError(
            f"{program.name}: a grid of {tuple(grid)} blocks is not made of clusters of"
            f" {program.cluster}: round the grid up, and mask"
        )


def check_group(group: ThreadGroup, program: Program) -> None:
    """What `check_groups` says of one group."""
    name = f"the group of {group.count} threads from {group.first}"
    if (
        group.first % WARP
        or group.count % WARP
        or not (0 <= group.first < group.first + group.count <= program.threads)
    ):
        raise TilusError(
            f"{name} of a block of {program.threads}: want whole warps, {WARP} threads each, of the"
            " block"
        )
    own = {out.name for out in tensors_of(group.body)}
    for statement in walk(group.body):
        match statement:
            case ThreadGroup():
                raise TilusError(f"{name} holds another: put them one after the other")
            case Do(Inst() as inst) if inst.whole_block:
                raise TilusError(f"{name} cannot {inst.name}: all threads of the block take part")
            case Do() as do:
                for tensor in operands_of(do):
                    if isinstance(tensor, Register) and tensor.name not in own:
                        raise TilusError(
                            f"{name} uses the registers {tensor.name}, which lie over all threads"
                            " of the block: load or allocate them in the group"
                        )
    if leaves(group.body):
        raise TilusError(f"{name} leaves a loop that all threads are in: put the loop inside")


def check_own_numbers(program: Program) -> None:
    """`TilusError` where others than those threads read or set a number that a group sets."""
    users: dict[str, set[tuple[int, int] | None]] = defaultdict(set)
    set_by: dict[str, tuple[int, int]] = {}
    for statement, span in spans(program.body):
        for name in reads(statement):
            users[name].add(span)
        if isinstance(statement, Set):
            users[statement.var.name].add(span)
            if span is not None:
                set_by[statement.var.name] = span
    for name, (first, count) in set_by.items():
        if users[name] != {(first, count)}:
            raise TilusError(
                f"the group of {count} threads from {first} sets {name}, which other threads use,"
                " and they would not see it: let them have a number of their own"
            )


def spans(body: Body) -> Iterator[tuple[Statement, tuple[int, int] | None]]:
    """Every statement with the threads of the group that it stands in, if it does."""
    for statement in body:
        match statement:
            case ThreadGroup(first, count):
                yield from ((inner, (first, count)) for inner in walk(statement.body))
            case _:
                yield statement, None
                for inner in inner_bodies(statement):
                    yield from spans(inner)


def operands_of(statement: Do) -> list[Tensor]:
    inst = statement.instruction
    return inst.operands if isinstance(inst, Inst) else []


def tensors_of(body: Body) -> list[Tensor]:
    """What is made in `body`."""
    return [s.out for s in walk(body) if isinstance(s, Do) and isinstance(s.out, Tensor)]


def leaves(body: Body) -> bool:
    """Whether `body` leaves a loop around it."""
    return any(
        isinstance(s, Break)
        or (not isinstance(s, For | While) and any(leaves(inner) for inner in inner_bodies(s)))
        for s in body
    )
