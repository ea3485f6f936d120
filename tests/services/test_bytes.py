"""The bytes that a problem must move, counted by hand for the shapes of the figures."""

import pytest

from services.executors.base import problem_bytes
from services.messages import Workload


@pytest.mark.parametrize(
    ("b_dtype", "bits", "group_size", "zeros", "m", "expected"),
    [
        ("uint4", 4, 128, True, 1, 33554432 + 2 * 2 * 64 * 8192 + 2 * (8192 + 8192)),
        ("int4", 4, 128, False, 16, 33554432 + 2 * 64 * 8192 + 2 * 16 * (8192 + 8192)),
        ("float6_e3m2", 6, -1, False, 1, 50331648 + 2 * 8192 + 2 * (8192 + 8192)),
        ("uint1", 1, 128, True, 1, 8388608 + 2 * 2 * 64 * 8192 + 2 * (8192 + 8192)),
        ("float16", 16, -1, False, 1, 134217728 + 2 * (8192 + 8192)),
    ],
)
def test_weight_scales_zeros_and_both_sides_count_once(
    b_dtype, bits, group_size, zeros, m, expected
):
    shape = Workload(b_dtype=b_dtype, group_size=group_size, zeros=zeros, m=m, n=8192, k=8192)
    assert problem_bytes(shape, bits) == expected
