"""Passes: functions Program -> Program, each a file that states its law.

`PIPELINE` is what a program goes through before code is made of it. A pass among the `OPTIONAL`
ones keeps the answers too, and is not part of it yet.
"""

from collections.abc import Callable, Iterator, Sequence

from tilus.ir import Program
from tilus.passes.drop_checks import drop_checks
from tilus.passes.drop_dead import drop_dead
from tilus.passes.infer_layouts import infer_layouts
from tilus.passes.pipeline import pipeline
from tilus.passes.plan_shared import plan_shared
from tilus.passes.simplify import simplify
from tilus.passes.verify import verify

Pass = Callable[[Program], Program]

PIPELINE: list[Pass] = [verify, infer_layouts, pipeline, drop_checks, plan_shared]
OPTIONAL: list[Pass] = [simplify, drop_dead]

__all__ = [
    "OPTIONAL", "PIPELINE", "after_each", "drop_checks", "drop_dead", "infer_layouts", "lower",
    "pipeline", "plan_shared", "simplify", "verify",
]  # fmt: skip


def lower(program: Program, passes: Sequence[Pass] = PIPELINE) -> Program:
    """What `passes` make of `program`, one after the other."""
    for one in passes:
        program = one(program)
    return program


def after_each(
    program: Program, passes: Sequence[Pass] = PIPELINE
) -> Iterator[tuple[str, Program]]:
    """The name of each pass and the program after it."""
    for one in passes:
        program = one(program)
        yield one.__name__, program
