"""The quantised matmul on the GPU against float64."""

import numpy as np
import pytest

from tests.gpu.device import run_on_gpu
from tilus.dtypes import ALL, DType
from tilus.kernels import quantized_matmul as q

TOLERANCE = 1e-3
KINDS = [("u8", True), ("u4", True), ("i4", False), ("u2", True), ("u1", True), ("f6e3m2", False)]


def error_of(parameters: dict, m: int, n: int, k: int, blocks: int, launches: int = 1) -> float:
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    case = q.random_case(problem, m, n, k, np.random.default_rng(m + n + k))
    arguments = q.host_arguments(case, problem, plan, blocks)
    for _ in range(launches):
        arguments["c"][...] = np.nan
        run_on_gpu(q.program(**parameters), arguments)
        assert not arguments["counters"].any()
    return q.relative_error(q.result(arguments, problem, m, n), case.reference(problem))


@pytest.mark.parametrize("m", [1, 7, 16, 33, 128])
@pytest.mark.parametrize(("b_dtype", "zeros"), KINDS)
def test_any_number_of_rows(b_dtype: str, zeros: bool, m: int) -> None:
    for group_size in (32, 64, 128, -1):
        schedule = q.schedules(b_dtype, group_size, m)[0]
        parameters = {"b_dtype": b_dtype, "group_size": group_size, "zeros": zeros, "n_multiple": 8,
                      **schedule}  # fmt: skip
        assert error_of(parameters, m, 328, 640, blocks=5) < TOLERANCE


@pytest.mark.parametrize("t", [t for t in ALL if t.bits <= 8 and t.name != "bool"], ids=str)
def test_every_format(t: DType) -> None:
    for m in (5, 40):
        for schedule in q.schedules(t.name, 128, m)[:3]:
            parameters = {"b_dtype": t.name, "group_size": 128, "zeros": False, **schedule}
            assert error_of(parameters, m, 512, 1024, blocks=7, launches=2) < TOLERANCE
