"""Dead code, found by what instructions say of their effect."""

from dataclasses import replace

from tilus.ir import Do, For, If, Let, Program, Register, Set, Statement, ThreadGroup, While
from tilus.isa.base import Body, Effect, Inst
from tilus.passes.rewrite import reads


def drop_dead(program: Program) -> Program:
    """Remove what nobody can notice: results that nobody reads, and writes into registers that
    nobody reads afterwards. Writes into memory and what orders them stay.
    """
    body, _ = swept(program.body, frozenset(), {})
    return replace(program, body=body)


Live = frozenset[str]  # the names that are read from here on
Ends = dict[int, Live]  # what is live at the end of a turn, as found so far, by the loop's identity


def swept(body: Body, live: Live, ends: Ends) -> tuple[Body, Live]:
    """`body` without what is dead where `live` is live behind it, and what is live before it.

    A name stays live up to its definition, also where all of it is written: it must be there.
    """
    kept: list[Statement] = []
    for statement in reversed(body):
        found, live = swept_statement(statement, live, ends)
        kept.extend(reversed(found))
    return tuple(reversed(kept)), live


def swept_statement(statement: Statement, live: Live, ends: Ends) -> tuple[Body, Live]:
    match statement:
        case Do(Inst() as inst, out) if not is_noticed(inst, live):
            if out is None or out.name not in live:
                return (), live
        case Let(var) | Set(var) if var.name not in live:
            return (), live
        case If(_, then, otherwise):
            then, in_then = swept(then, live, ends)
            otherwise, in_otherwise = swept(otherwise, live, ends)
            live = in_then | in_otherwise
            if not then and not otherwise:
                return (), live
            statement = replace(statement, then=then, otherwise=otherwise)
        case ThreadGroup():
            inside, live = swept(statement.body, live, ends)
            statement = replace(statement, body=inside)
        case For() | While():
            statement, live = swept_loop(statement, live, ends)
            if isinstance(statement, For) and not statement.body:
                return (), live
    kept = live | reads(statement)
    return (statement,), kept | {statement.var.name} if isinstance(statement, Set) else kept


def swept_loop(loop: For | While, live: Live, ends: Ends) -> tuple[For | While, Live]:
    """What is live at the start of a turn is live at the end of the turn before.

    `ends` remembers that, so that a loop in a loop in a loop is not begun anew again and again.
    """
    while True:
        live = ends[id(loop)] = live | reads(loop) | ends.get(id(loop), frozenset())
        body, before = swept(loop.body, live, ends)
        if before <= live:
            return replace(loop, body=body), live
        live |= before


def is_noticed(inst: Inst, live: Live) -> bool:
    """Whether `inst` does more than return a value."""
    if Effect.SYNC in inst.effect:
        return True
    places = [t for t in inst.written if not isinstance(t, Register) or t.name in live]
    return bool(places) or (Effect.WRITES in inst.effect and not inst.written)
