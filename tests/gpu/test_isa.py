"""Every instruction sample on the GPU: the same bits as its meaning on whole tiles."""

import numpy as np
import pytest

from tests.gpu.device import architecture, run_on_gpu
from tests.tilus.test_isa import CASES, SAMPLES, copied, rounds, same_numbers, tolerance
from tilus.codegen import generate
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Register
from tilus.target import target


@pytest.mark.parametrize("name", CASES)
def test_gpu_agrees_with_run(name: str) -> None:
    case, sample = CASES[name], SAMPLES[name]
    if not any(target(architecture()).supports(needed) for needed in sample.needs):
        with pytest.raises(TilusError, match="needs"):
            generate(case.program, architecture())
        return
    want, got = copied(case), copied(case)
    interpret(case.program, want)
    run_on_gpu(case.program, got)
    out = sample.result()
    for array in case.names:
        if array.startswith("out0_") and isinstance(out, Register) and rounds(out.dtype):
            same_numbers(out.dtype, got[array], want[array], tolerance(sample, out.dtype))
        else:
            np.testing.assert_array_equal(got[array], want[array], err_msg=array)
