"""Weights packed and unpacked by programs: the same words as on the host."""

from pathlib import Path

import numpy as np
import pytest

from tilus import codegen
from tilus.codegen import grid_of
from tilus.dtypes import ALL, DType
from tilus.interp import interpret
from tilus.ir import Program
from tilus.kernels import repack, weights
from tilus.runtime import host

SMALL = [t for t in ALL if t.bits <= 8]
K, N = 150, 37  # no whole tiles


@pytest.fixture(scope="module")
def library() -> Path:
    programs = [repack.program(t, back) for t in SMALL for back in (False, True)]
    sources = [(p, codegen.generate(p)) for p in programs]
    return host.build("".join(s.text + codegen.host_entry(p, s) for p, s in sources), "-O0")


def run(program: Program, codes: np.ndarray, words: np.ndarray, library: Path | None) -> None:
    arguments = {"codes": codes.ravel(), "words": words.view(np.uint32).ravel(), "k": K, "n": N}
    if library is None:
        interpret(program, arguments)
    else:
        grid = grid_of(program, arguments)
        host.run(library, program.name, list(arguments.values()), grid)


@pytest.mark.parametrize("on_host", [False, True], ids=["interpreted", "generated"])
@pytest.mark.parametrize("of", SMALL, ids=str)
def test_programs_pack_and_unpack_as_weights_do(of: DType, on_host: bool, library: Path) -> None:
    rng = np.random.default_rng(of.bits)
    codes = rng.integers(0, 1 << of.bits, (K, N)).astype(np.uint8)
    where, want = library if on_host else None, weights.pack(codes, of)
    words = np.full_like(want, -1)
    run(repack.program(of), codes, words, where)
    np.testing.assert_array_equal(words, want)
    again = np.full_like(codes, 255)
    run(repack.program(of, back=True), again, words, where)
    np.testing.assert_array_equal(again, codes)
