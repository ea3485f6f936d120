"""The quantised matmul on the GPU against float64."""

import numpy as np
import pytest

from tests.gpu.device import architecture, run_on_gpu
from tilus.dtypes import ALL, DType
from tilus.kernels import quantized_matmul as q

TOLERANCE = 1e-3
FORMATS = [t for t in ALL if t.bits <= 8 and t.name != "bool"]
ROWS = (1, 7, 16, 33, 128, 1000)


def error_of(parameters: dict, m: int, n: int, k: int, blocks: int, launches: int = 1) -> float:
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    case = q.random_case(problem, m, n, k, np.random.default_rng(m + n + k))
    arguments = q.host_arguments(case, problem, plan, blocks)
    for _ in range(launches):
        arguments["c"] = problem.a_dtype.carry(np.full(m * n, np.nan))
        run_on_gpu(q.program(**parameters), arguments)
        assert not arguments["counters"].any()
    return q.relative_error(q.result(arguments, problem, m, n), case.reference(problem))


def zeros_of(t: DType) -> tuple[bool, ...]:
    return (False,) if t.kind == "float" else (False, True)


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize("t", FORMATS, ids=str)
def test_every_format_group_and_number_of_rows(t: DType, group_size: int) -> None:
    """Tiles that n and k do not fill, with all masks."""
    n, k = (77, 333) if group_size == -1 else (328, 640)
    multiples = {"n_multiple": 1 if n % 8 else 8, "k_multiple": 1 if k % 64 else 64}
    for zeros in zeros_of(t):
        for m in ROWS:
            schedule = q.schedules(t.name, group_size, m, n, architecture())[0]
            parameters = {"b_dtype": t.name, "group_size": group_size, "zeros": zeros,
                          **multiples, **schedule}  # fmt: skip
            assert error_of(parameters, m, n, k, blocks=5) < TOLERANCE, (m, zeros)


@pytest.mark.parametrize("arch", ["sm_80", "chip"])
@pytest.mark.parametrize("t", FORMATS, ids=str)
def test_every_format_in_whole_tiles(t: DType, arch: str) -> None:
    """What the copy engine brings, and what single warps multiply; twice, for the counters."""
    chip = architecture() if arch == "chip" else arch
    for m, n in ((5, 8192), (16, 8192), (5, 57344), (16, 57344), (40, 8192)):
        for schedule in q.schedules(t.name, 128, m, n, chip):
            parameters = {"b_dtype": t.name, "group_size": 128, "zeros": zeros_of(t)[-1],
                          "k_multiple": 1024, "n_multiple": 3584, **schedule}  # fmt: skip
            assert error_of(parameters, m, 3584, 2048, blocks=7, launches=2) < TOLERANCE


@pytest.mark.parametrize("t", FORMATS, ids=str)
def test_every_format_with_bfloat16(t: DType) -> None:
    """The result's own rounding is 8 times as coarse as float16's."""
    schedule = q.schedules(t.name, 128, 16, 8192, architecture())[0]
    parameters = {"a_dtype": "bfloat16", "b_dtype": t.name, "group_size": 128,
                  "zeros": zeros_of(t)[-1], "n_multiple": 8, **schedule}  # fmt: skip
    assert error_of(parameters, 16, 328, 640, blocks=5) < 3e-3
