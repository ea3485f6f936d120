"""Masks only where a tile can leave its tensor."""

from dataclasses import replace
from typing import Any

from tilus.ir import Program
from tilus.isa.base import Inst
from tilus.passes.rewrite import remade
from tilus.values import Values, values_of


def drop_checks(program: Program) -> Program:
    """`check` of every access without the dimensions in which its tile is inside for sure, as the
    extents of the grid, the ranges of loops and the promised multiples say.
    """
    values = values_of(program)
    return replace(program, body=remade(program.body, lambda inst, _: relaxed(inst, values)))


def relaxed(inst: Inst, values: Values) -> Inst:
    """`inst` with no check that is not needed."""
    window = inst.window()
    if window is None:
        return inst
    tensor, at, shape = window
    extents = (1,) * (len(at) - len(shape)) + shape
    checked: Any = vars(inst)["check"]
    needed = tuple(
        d
        for d in (range(len(at)) if checked is None else checked)
        if not values.inside(at[d], extents[d], tensor.shape[d])
    )
    if len(needed) == len(at) if checked is None else needed == checked:
        return inst
    return replace(inst, check=needed)  # type: ignore[type-var]
