"""Every example on the GPU."""

import pytest

from tests.examples.found import EXAMPLES, TOLERANCE, case, error
from tests.gpu.device import run_on_gpu


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("times", [1, 3, 5])
def test_an_example_is_right_on_the_gpu(name: str, times: int) -> None:
    given, want = case(name, times)
    run_on_gpu(EXAMPLES[name].program(), given)
    assert error(given["out"], want) < TOLERANCE
