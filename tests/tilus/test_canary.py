"""The kernel whose every bit is known, by its meaning, by its text, and with one bit wrong."""

import numpy as np
import pytest

from tilus.compiler import compile, run_on_host
from tilus.interp import interpret
from tilus.kernels import canary
from tilus.target import ARCHITECTURES

WORDS = np.random.default_rng(3).integers(0, 1 << 32, 3 * canary.WORDS, dtype=np.uint32)


@pytest.mark.parametrize("run", [interpret, run_on_host])
def test_it_gives_what_numpy_says(run):
    out = np.zeros_like(WORDS)
    run(canary.program(), {"x": WORDS, "out": out, "blocks": 3})
    assert np.array_equal(out, canary.expected(WORDS))


def test_one_wrong_bit_anywhere_is_many_at_the_end():
    right = canary.expected(WORDS)
    for bit in range(32):
        wrong = canary.expected(WORDS ^ np.uint32(1 << bit)) ^ right
        ones = np.unpackbits(wrong.view(np.uint8)).mean()
        assert (wrong != 0).all() and 0.45 < ones < 0.55


def test_it_compiles_for_every_chip_without_spilling():
    for arch in ARCHITECTURES:
        assert compile(canary.program(), arch).resources.spill_bytes == 0
