"""The inputs and the reference of a measurement, made on the CPU as a GPU would make them."""

from types import SimpleNamespace

import numpy as np
import pytest

import tilus
from services.experiments import plain, workload
from services.runner.bench import TorchBench, inputs_sha256, make_problem, reference
from tilus.dtypes import SMALL_FLOATS

torch = pytest.importorskip("torch", reason="inputs are made with PyTorch")
TYPES = ["uint8", "uint4", "uint2", "uint1", "int4", "int3", "float6_e3m2", "float8_e4m3"]
EVERY = [f"{kind}{bits}" for kind in ("uint", "int") for bits in range(1, 9)]
EVERY += [each.name for each in SMALL_FLOATS]
NORMAL, LARGEST = 2.0**-14, 65504.0  # of float16


def small(b_dtype, m=3):
    problem = workload(b_dtype, m, 96, 256)
    return make_problem(problem, slots=2, multiprocessors=1, device="cpu")


@pytest.mark.parametrize("b_dtype", [*TYPES, "float16"])
def test_inputs_are_the_same_every_time_and_outputs_of_order_one(b_dtype):
    once, again = small(b_dtype), small(b_dtype)
    assert inputs_sha256(once) == inputs_sha256(again)
    assert 0.5 < reference(once).std().item() < 2.0


def test_other_problems_have_other_inputs():
    digests = {inputs_sha256(small(b_dtype, m)) for b_dtype in TYPES for m in (1, 2)}
    assert len(digests) == 2 * len(TYPES)


@pytest.mark.parametrize("b_dtype", EVERY)
def test_codes_take_every_value_that_is_finite_in_float16_and_no_other(b_dtype):
    dtype = tilus.dtype(b_dtype)
    values = dtype.decode(np.arange(2**dtype.bits, dtype=np.uint8))
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float16))
    drawn = np.unique(small(b_dtype).codes.numpy())
    np.testing.assert_array_equal(drawn, np.flatnonzero(finite))


@pytest.mark.parametrize("k", [256, 8192, 28672])
@pytest.mark.parametrize("b_dtype", EVERY)
def test_no_format_brings_scales_or_outputs_near_the_ends_of_float16(b_dtype, k):
    problem = make_problem(plain(b_dtype, 16, 64, k), 2, multiprocessors=1, device="cpu")
    scales, outputs = problem.scales.double(), reference(problem)
    assert scales.min().item() >= NORMAL and scales.max().item() < 16
    assert scales.max().item() > 2 * scales.min().item()
    assert 0.5 < outputs.std().item() < 2 and outputs.abs().max().item() < LARGEST / 1000
    assert 2.0**-9 < problem.activations.double().std().item() <= 0.13


def test_zeros_are_not_only_integers():
    zeros = small("uint4").zeros
    assert (zeros != zeros.round()).float().mean() > 0.5


@pytest.mark.parametrize("b_dtype", TYPES)
def test_the_reference_is_the_formula(b_dtype):
    problem = small(b_dtype)
    weight = tilus.dtype(b_dtype).decode(problem.codes.numpy())
    rows = np.arange(256) // (256 // len(problem.scales))
    if problem.zeros is not None:
        weight = weight - problem.zeros.numpy().astype(np.float64)[rows]
    weight = weight * problem.scales.numpy().astype(np.float64)[rows]
    expected = problem.activations.numpy().astype(np.float64) @ weight
    np.testing.assert_allclose(reference(problem).numpy(), expected, rtol=1e-12)


def test_every_slot_has_its_own_activation():
    activations = small("uint4").activations
    assert not torch.equal(activations[0], activations[1])


def test_the_digest_covers_every_input():
    problem = small("uint4")
    before = inputs_sha256(problem)
    for tensor in (problem.codes, problem.scales, problem.zeros, problem.activations):
        kept = tensor.view(-1)[0].clone()
        tensor.view(-1)[0] = kept + 1
        assert inputs_sha256(problem) != before
        tensor.view(-1)[0] = kept
    assert inputs_sha256(problem) == before


def error_of(spoil):
    """The bench's verdict on outputs that are right in f16 before `spoil` changes them."""
    problem = small("uint4")
    right = reference(problem)
    cuda = SimpleNamespace(synchronize=lambda: None)
    bench = SimpleNamespace(
        problem=problem, slots=2, reference=right, torch=SimpleNamespace(cuda=cuda)
    )

    def launch(slot):
        problem.outputs[slot] = right[slot].half()
        spoil(slot, problem.outputs[slot])

    return TorchBench.relative_error(bench, launch)


def test_the_error_is_that_of_the_worst_slot_and_what_is_not_written_is_wrong():
    assert error_of(lambda slot, out: None) < 5e-4
    half_off = error_of(lambda slot, out: out.mul_(1.5) if slot == 1 else None)
    assert half_off == pytest.approx(0.5, abs=1e-3)
    assert error_of(lambda slot, out: out[0, 0].fill_(float("nan"))) == float("inf")


def test_a_reference_of_many_columns_is_made_in_parts():
    problem = make_problem(workload("uint4", 2, 4100, 128), 1, multiprocessors=1, device="cpu")
    first = problem.codes[:, :100], problem.scales[:, :100], problem.zeros[:, :100]
    values = (first[0].double() - first[2].double()) * first[1].double()
    part = problem.activations.double() @ values
    np.testing.assert_allclose(reference(problem)[..., :100], part, rtol=1e-12)
    assert reference(problem)[..., -1].abs().min() > 0
