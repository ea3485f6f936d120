"""From numbers to codes and back."""

import numpy as np
import pytest

import tilus
from tilus.dtypes import ALL

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((192, 24))


@pytest.mark.parametrize("t", [t for t in ALL if t.bits <= 8 and t.name != "bool"], ids=str)
@pytest.mark.parametrize("group_size", [64, -1])
def test_every_number_goes_to_the_nearest_code(t: tilus.DType, group_size: int) -> None:
    w = tilus.quantize(WEIGHT, t, group_size)
    group = np.arange(192) // (192 if group_size == -1 else group_size)
    scale = w.scales.astype(np.float64)[group]
    numbers = t.decode(np.arange(1 << t.bits))
    numbers = np.unique(numbers[np.isfinite(numbers)])
    distance = np.abs(WEIGHT[..., None] / scale[..., None] - numbers).min(axis=-1)
    got = np.abs(WEIGHT - w.dequantize()) / scale
    np.testing.assert_allclose(got, distance, atol=1e-4 * np.abs(numbers).max())


@pytest.mark.parametrize("name", ["u1", "u2", "u3", "u4", "u8", "i3", "i8"])
def test_with_zeros_the_error_is_at_most_a_step(name: str) -> None:
    shifted = WEIGHT + 5  # all of one sign: without zeros half of the codes were wasted
    w = tilus.quantize(shifted, name, 64, zeros=True)
    step = w.scales.astype(np.float64)[np.arange(192) // 64]
    slack = 1.1 if w.dtype.bits < 8 else 4.0  # a float16 zero point is off by a step at 8 bits
    assert (np.abs(w.dequantize() - shifted) <= slack * step).all()


def test_matmul_is_that_of_the_dequantised_weight() -> None:
    w = tilus.quantize(WEIGHT, "u4", 64, zeros=True)
    a = RNG.standard_normal((5, 192)).astype(np.float16)
    want = a.astype(np.float64) @ w.dequantize().astype(np.float64)
    np.testing.assert_allclose(tilus.matmul(a, w), want, rtol=5e-3, atol=5e-2)


def test_a_column_of_zeros_stays_zero() -> None:
    weight = WEIGHT.copy()
    weight[:, 3] = 0
    assert not tilus.quantize(weight, "f4e2m1", 64).dequantize()[:, 3].any()
    assert not tilus.quantize(weight, "u4", 64, zeros=True).dequantize()[:, 3].any()


@pytest.mark.parametrize(("arguments", "says"), [
    ((WEIGHT, "u4", 100), "group size 100 does not divide K = 192"),
    ((WEIGHT, "u4", 0), "group size 0 does not divide"),
    ((WEIGHT[0], "u4", 64), r"a weight \[K, N\], not one of shape \(24,\)"),
    ((WEIGHT, "f16", 64), "take a type of 1 to 8 bits"),
    ((WEIGHT, "f6e3m2", 64, True), "zero points are for integer types"),
    ((WEIGHT * np.inf, "u4", 64), "infinities or NaNs"),
    ((WEIGHT, "q4", 64), "no dtype 'q4'"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(arguments: tuple, says: str) -> None:
    with pytest.raises(tilus.TilusError, match=says), np.errstate(invalid="ignore"):
        tilus.quantize(*arguments)


def test_matmul_of_shapes_that_do_not_fit() -> None:
    w = tilus.quantize(WEIGHT, "u4", 64)
    with pytest.raises(tilus.TilusError, match=r"want \[M, K\] @ \[K, N\]"):
        tilus.matmul(np.zeros((3, 5), np.float16), w)
    with pytest.raises(tilus.TilusError, match="matmul of a list"):
        tilus.matmul([[1.0]], w)
