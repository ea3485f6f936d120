"""What may be done to each result of a product: a row of `ACTIVATIONS` is one function.

    relu(x) = max(x, 0)
    silu(x) = x / (1 + exp(-x))
    gelu(x) = x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2, the approximation by tanh

The last two are x * (1 + tanh(v)) / 2, which is x / (1 + exp(-2 v)), of a v each. The meaning is
computed the one way and the machine's instructions the other, where nothing is cancelled.
"""

from collections.abc import Callable
from math import pi, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tilus.dtypes import f32
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.lang import Tracer
from tilus.layout import reduce

SLOPE, CUBIC = sqrt(2 / pi), 0.044715  # of gelu
Floats = npt.NDArray[Any]


class Activation(NamedTuple):
    meaning: Callable[[Floats], Floats]  # on NumPy arrays of floats
    traced: Callable[[Tracer, Register], Register]  # of a tile of float32


def gated(x: Floats, v: Floats) -> Floats:
    """The part of x that v lets through: none of it, half or all for v of -inf, 0 and inf."""
    part: Floats = x * (1 + np.tanh(v)) / 2
    return part


def traced_gated(t: Tracer, x: Register, minus_two_v: Register) -> Register:
    """`gated`, from -2 v."""
    # x / root^-2: a division has a branch for extreme divisors, which costs registers
    root = t.rsqrt(t.add(t.exp(minus_two_v), everywhere(t, x, 1)))
    part: Register = t.mul(t.mul(x, root), root)
    return part


def traced_relu(t: Tracer, x: Register) -> Register:
    """NaN stays NaN, which a maximum would pass over."""
    zero = everywhere(t, x, 0)
    positive: Register = t.where(t.less(x, zero), zero, x)
    return positive


def traced_gelu(t: Tracer, x: Register) -> Register:
    slope, cubic = everywhere(t, x, -2 * SLOPE), everywhere(t, x, -2 * SLOPE * CUBIC)
    return traced_gated(t, x, t.mul(x, t.fma(t.mul(x, x), cubic, slope)))


def everywhere(t: Tracer, x: Register, number: float) -> Register:
    """A number that meets every element of `x`."""
    one: Register = t.allocate_register(f32, reduce(x.layout, (0, 1)), number)
    return one


ACTIVATIONS = {
    "none": Activation(lambda x: x, lambda t, x: x),
    "relu": Activation(lambda x: np.maximum(x, 0), traced_relu),
    "silu": Activation(lambda x: gated(x, x / 2), lambda t, x: traced_gated(t, x, t.neg(x))),
    "gelu": Activation(lambda x: gated(x, SLOPE * (x + CUBIC * x**3)), traced_gelu),
}


def named(name: str) -> Activation:
    """The row of that name, or a sentence which there are."""
    if name not in ACTIVATIONS:
        raise TilusError(f"no activation {name!r}: there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
