"""Weights in low precision: from numbers to codes with scales and zero points, and back.

w = quantize(weight, "uint3", group_size=128, zeros=True)    # weight [K, N]
matmul(a, w)                                                # about a @ weight, in NumPy
matmul(a, w.to("cuda"))                                     # the same of a PyTorch tensor, on a GPU
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tilus.dispatch import Choice, DeviceWeight, best_known
from tilus.dtypes import DType, dtype
from tilus.errors import TilusError
from tilus.kernels import activations, weights
from tilus.kernels.problem import problem_for
from tilus.runtime.tensors import device_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [K, N]: `words` in the one stored format, scales and zeros float16 [K/g, N].

    `dtype` says what a code means; the number is (code's value - zero) * scale. `zeros` is None
    where there are none.
    """

    dtype: DType
    shape: tuple[int, int]
    group_size: int
    words: Array
    scales: Array
    zeros: Array | None

    def codes(self) -> Array:
        """The codes [K, N]."""
        return weights.unpack(self.words, self.dtype, *self.shape)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The numbers that the weight stands for, [K, N], in float32."""
        k = self.shape[0]
        group = np.arange(k) // (k if self.group_size == -1 else self.group_size)
        values = self.dtype.decode(self.codes())
        if self.zeros is not None:
            values = values - self.zeros.astype(np.float64)[group]
        numbers: npt.NDArray[np.float32] = (values * self.scales[group]).astype(np.float32)
        return numbers

    def to(
        self, device: Any, a_dtype: Any = "float16", choose: Choice = best_known
    ) -> DeviceWeight:
        """The weight on a CUDA device, for activations in float16 or bfloat16.

        Scales and zeros are rounded to the type of activations. `choose` says how the work of a
        product is laid out.
        """
        (k, n), given = self.shape, str(a_dtype).removeprefix("torch.")
        problem = problem_for(self.dtype.name, self.group_size, self.zeros is not None, given, n, k)
        there, of = device_of(device), problem.a_dtype.name
        words, scales = there.place(self.words), there.place(self.scales, of)
        zeros = None if self.zeros is None else there.place(self.zeros, of)
        return DeviceWeight(problem, self.shape, words, scales, zeros, there, choose)

    def times(self, a: Any, bias: Any = None, activation: str = "none", out: Any = None) -> Array:
        """The activation of `a` [M, K] times the weight plus `bias` [N], NumPy arrays: [M, N] in
        float16, computed in float32."""
        if not isinstance(a, np.ndarray):
            raise TilusError(
                f"matmul of a {type(a).__name__}: this weight is for NumPy arrays, the reference;"
                " for PyTorch tensors take w.to(a.device)"
            )
        if a.ndim != 2 or a.shape[1] != self.shape[0]:
            raise TilusError(
                f"matmul: a is {a.shape} and the weight {self.shape}: want [M, K] @ [K, N]"
            )
        if bias is not None and np.shape(bias) != self.shape[1:]:
            raise TilusError(
                f"matmul: bias is {np.shape(bias)} and the weight {self.shape}: want bias [N]"
            )
        follow = activations.named(activation).meaning
        sums = a.astype(np.float32) @ self.dequantize()
        if bias is not None:
            sums = sums + np.asarray(bias, np.float32)
        product: Array = follow(sums).astype(np.float16)
        if out is None:
            return product
        out[...] = product
        return np.asarray(out)


def quantize(
    weight: Any, to: str | DType, group_size: int = -1, zeros: bool = False
) -> QuantizedWeight:
    """`weight` [K, N] in `to`, each group of `group_size` numbers along K scaled by itself.

    The scale makes the largest number of a group the largest value of the type; with zeros (for
    integer types) the range of the type covers the range of the group.
    """
    numbers = np.asarray(weight, np.float64)
    target = dtype(to)
    check_quantizable(numbers, target, group_size, zeros)
    k, n = numbers.shape
    size = k if group_size == -1 else group_size
    groups = numbers.reshape(k // size, size, n)
    scales, offsets = ranged(groups, target) if zeros else (scaled(groups, target), None)
    exact = groups / scales.astype(np.float64)[:, None]
    if offsets is not None:
        exact = exact + offsets.astype(np.float64)[:, None]
    codes = target.encode(exact).reshape(k, n)
    return QuantizedWeight(target, (k, n), group_size, weights.pack(codes, target), scales, offsets)


def check_quantizable(numbers: Array, target: DType, group_size: int, zeros: bool) -> None:
    """What was asked makes sense, or a sentence why not."""
    if numbers.ndim != 2:
        raise TilusError(f"quantize takes a weight [K, N], not one of shape {numbers.shape}")
    if target.bits > 8:
        raise TilusError(f"quantize to {target}: take a type of 1 to 8 bits")
    if zeros and target.kind == "float":
        raise TilusError(f"quantize to {target} with zeros: zero points are for integer types")
    k = numbers.shape[0]
    if group_size != -1 and (group_size < 1 or k % group_size):
        raise TilusError(
            f"group size {group_size} does not divide K = {k}: take a divisor, or -1 for one group"
        )
    if not np.isfinite(numbers).all():
        raise TilusError("quantize: the weight has infinities or NaNs: replace them first")


def scaled(groups: Array, target: DType) -> Array:
    """A scale [K/g, N] that makes the largest magnitude of a group the largest of the type."""
    largest = max(target.max, -target.min) if target.kind == "int" else target.max
    return positive(np.abs(groups).max(axis=1) / max(largest, 1))


def ranged(groups: Array, target: DType) -> tuple[Array, Array]:
    """A scale and a zero point [K/g, N] that lay the range of a group over that of the type."""
    low, high = groups.min(axis=1), groups.max(axis=1)
    scales = positive((high - low) / (target.max - target.min))
    zeros = target.min - low / scales.astype(np.float64)
    return scales, np.clip(zeros, -65504, 65504).astype(np.float16)


def positive(scales: Array) -> Array:
    """`scales` in float16, neither 0 nor infinite."""
    tiny, largest = np.finfo(np.float16).tiny, np.finfo(np.float16).max
    bounded = np.where(scales == 0, 1.0, np.clip(scales, float(tiny), float(largest)))
    halves: Array = bounded.astype(np.float16)
    return halves


def matmul(
    a: Any,
    w: QuantizedWeight | DeviceWeight,
    bias: Any = None,
    activation: str = "none",
    out: Any = None,
) -> Any:
    """The activation (none, relu, silu or gelu) of `a` [M, K] times the weight plus `bias` [N]:
    [M, N], in `out` if that is given.

    Of NumPy arrays, the reference; of a weight on a GPU (`w.to("cuda")`) and a PyTorch tensor
    there, by the kernel, on the current stream: docs/matmul.md.
    """
    return w.times(a, bias, activation, out)
