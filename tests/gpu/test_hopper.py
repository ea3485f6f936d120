"""The protocols of several threads on a GPU that has barriers and the copy engine."""

import numpy as np
import pytest

from tests.gpu.device import architecture, run_on_gpu
from tests.tilus.protocols import PROTOCOLS
from tilus.target import target


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_on_the_gpu(name: str) -> None:
    if not target(architecture()).supports("sm_90"):
        pytest.skip(f"needs sm_90, and this is {architecture()}")
    program, arguments, y = PROTOCOLS[name]
    given = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    run_on_gpu(program, given)
    np.testing.assert_array_equal(given["y"], y)
