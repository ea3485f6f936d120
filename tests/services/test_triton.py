"""Our Triton kernel: its stored format, its product, and that it compiles with no GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from services.executors import triton
from services.experiments import FIGURES, workload
from services.settings import ROOT

CELLS = [cell.workload for cell in FIGURES[9].cells if cell.executor == "triton"]


@pytest.mark.parametrize("b_dtype", triton.BITS)
def test_a_column_of_a_chunk_lies_together_low_nibbles_first(b_dtype):
    bits = triton.BITS[b_dtype]
    codes = np.random.default_rng(1).integers(0, 2**bits, (384, 48), dtype=np.uint8)
    words = triton.pack(codes, b_dtype).reshape(3, 48, 128 * bits // 8)
    for chunk, column in ((0, 0), (2, 47), (1, 5)):
        expected = codes[128 * chunk : 128 * (chunk + 1), column]
        stored = words[chunk, column]
        if bits == 4:
            stored = np.concatenate([stored & 15, stored >> 4])
        np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("problem", CELLS, ids=lambda w: f"{w.b_dtype}-{w.m}-{w.k}-{w.n}")
def test_a_cell_gets_as_wide_a_choice_as_ours(problem):
    assert triton.refusal(problem) is None
    specs = triton.candidates(problem, "sm_90")
    assert 16 <= len({triton.key(spec) for spec in specs}) == len(specs) <= 24
    for name in ("block_n", "split_k", "warps", "stages", "scale_sums"):
        assert len({spec.parameters[name] for spec in specs}) > 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"b_dtype": "uint2"}, "uint8 or uint4"),
        ({"a_dtype": "bfloat16"}, "not bfloat16"),
        ({"group_size": 64}, "groups of a multiple of 128"),
        ({"group_size": 384}, "does not divide"),
        ({"k": 8191}, "k in multiples of 128"),
    ],
)
def test_what_it_cannot_run_is_refused_with_a_reason(changes, reason):
    problem = workload("uint4", 1, 8192, 8192).model_copy(update=changes)
    assert reason in (triton.refusal(problem) or "")


def _interpreter() -> str | None:
    """Why Triton's interpreter does not run here."""
    if find_spec("triton") is None or find_spec("torch") is None:
        return "the interpreter of Triton needs triton and torch"
    if tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        return "the interpreter of Triton 3.6 breaks with NumPy 2.4"
    return None


@pytest.mark.skipif(_interpreter() is not None, reason=_interpreter() or "")
@pytest.mark.parametrize(
    "arguments",
    [
        "uint4 128 1 3 1 2 128",
        "uint4 128 1 16 0 1 128",
        "uint8 128 1 17 1 3 64",
        "uint8 128 1 16 0 2 128",
        "uint4 -1 0 1 1 4 128",
        "uint8 256 1 2 1 2 64",
    ],
)
def test_the_kernel_computes_the_product(arguments):
    command = [sys.executable, "-m", "tests.services.triton_on_cpu", *arguments.split()]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1e-3


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("b_dtype", triton.BITS)
def test_a_kernel_compiles_on_a_cpu_to_the_same_bytes_each_time(b_dtype):
    spec = triton.candidates(workload(b_dtype, 1, 8192, 8192), "sm_90")[0]
    built = triton.build(spec)
    assert built.files["kernel.cubin"][:4] == b"\x7fELF"
    assert built.facts["entry"] == "quantized_matmul"
    assert built.facts["threads"] == 32 * spec.parameters["warps"]
    assert 0 < built.facts["shared_bytes"] <= 227 << 10
    assert triton.build(spec).files == built.files


def test_the_key_follows_every_parameter_and_the_target():
    spec = triton.candidates(workload("uint4", 1, 8192, 8192), "sm_90")[0]
    changed = [
        spec.model_copy(update={"parameters": spec.parameters | {name: value}})
        for name, value in (("stages", 9), ("split_k", 16), ("zeros", False), ("group_size", 256))
    ]
    changed.append(spec.model_copy(update={"arch": "sm_89"}))
    assert len({triton.key(one) for one in (spec, *changed)}) == 6
