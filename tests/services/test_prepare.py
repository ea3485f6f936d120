"""What an executor passes to its kernel: each argument in its place, slot by slot."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from services.executors import EXECUTORS, triton
from services.executors.base import Built
from services.experiments import workload
from services.runner.bench import make_problem
from tilus.kernels import LIBRARY

torch = pytest.importorskip("torch", reason="inputs are made with PyTorch")
SHAPE = {"m": 3, "n": 128, "k": 256}
BUILT = Built({"kernel.cubin": b""}, {"entry": "f", "threads": 128, "shared_bytes": 0})


@pytest.fixture
def launches(monkeypatch):
    """Every launch of a kernel that would be on a GPU: its grid and its arguments."""
    seen = []
    launcher = ModuleType("tilus.runtime.launcher")

    class LoadedKernel:
        def __init__(self, cubin, entry, threads, shared_bytes):
            assert (entry, threads, shared_bytes) == ("f", 128, 0)

        def __call__(self, stream, grid, *arguments):
            seen.append((grid, arguments))

    launcher.LoadedKernel = LoadedKernel
    launcher.tensor_map = lambda address, *numbers: ("map of", address)
    monkeypatch.setitem(sys.modules, "tilus.runtime.launcher", launcher)
    stream = SimpleNamespace(cuda_stream=1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    return seen


def prepared(name, b_dtype, choice=0):
    problem = make_problem(workload(b_dtype, **SHAPE), 2, multiprocessors=4, device="cpu")
    spec = EXECUTORS[name].candidates(problem.workload, "sm_90")[choice]
    return problem, spec, EXECUTORS[name].prepare(problem, spec, BUILT)


@pytest.mark.parametrize("b_dtype", ["uint8", "uint4"])
def test_triton_gets_its_arguments_in_the_order_of_its_signature(launches, b_dtype):
    problem, spec, launch = prepared("triton", b_dtype)
    launch(1)
    ((grid, arguments),) = launches
    assert len(arguments) == len(triton.SIGNATURE) + triton.HIDDEN_POINTERS
    given = dict(zip(triton.SIGNATURE, arguments, strict=False))
    assert given["a"] == problem.activations[1].data_ptr()
    assert given["scales"] == problem.scales.data_ptr()
    assert given["zeros"] == problem.zeros.data_ptr()
    assert given["c"] == problem.outputs[1].data_ptr()
    assert {name: int(given[name]) for name in "mnk"} == SHAPE
    assert arguments[-2:] == (0, 0)
    assert grid == triton.grid(spec.parameters, SHAPE["m"], SHAPE["n"])


@pytest.mark.parametrize("b_dtype", ["uint8", "uint4", "int4", "uint1", "float6_e3m2"])
def test_tilus_gets_its_arguments_in_the_order_of_its_program(launches, b_dtype):
    problem, spec, launch = prepared("tilus", b_dtype)
    launch(0)
    ((grid, arguments),) = launches
    program = LIBRARY["quantized_matmul"].program(**spec.parameters)
    names = [parameter.name for parameter in program.parameters]
    given = dict(zip(names, arguments, strict=False))
    assert set(arguments[len(names) :]) <= {("map of", problem.activations[0].data_ptr())}
    assert given["a"] == problem.activations[0].data_ptr()
    assert given["scales"] == problem.scales.data_ptr()
    assert ("zeros" in given) == (problem.zeros is not None)
    assert given.get("zeros", 0) == (0 if problem.zeros is None else problem.zeros.data_ptr())
    assert given["c"] == problem.outputs[0].data_ptr()
    assert {name: int(given[name]) for name in "mnk"} == SHAPE
    assert given["blocks"] == grid[0]
    assert all(isinstance(given[name], np.int32) for name in ("m", "n", "k", "blocks"))


@pytest.mark.parametrize("name", ["triton", "tilus"])
def test_every_slot_reads_its_own_weight_and_all_kernels_share_them(launches, name):
    problem, _, launch = prepared(name, "uint4")
    launch(0)
    launch(1)
    spec = EXECUTORS[name].candidates(problem.workload, "sm_90")[1]
    EXECUTORS[name].prepare(problem, spec, BUILT)(0)
    words = [arguments[1] for _, arguments in launches]
    assert words[0] == words[2] != words[1]


def test_the_baseline_multiplies_each_slot_into_its_output():
    problem = make_problem(workload("float16", **SHAPE), 2, multiprocessors=4, device="cpu")
    launch = EXECUTORS["torch-f16"].prepare(problem, None, None)
    problem.outputs.fill_(float("nan"))
    for slot in range(2):
        launch(slot)
    expected = problem.activations.double() @ problem.weight.double()
    assert (problem.outputs.double() - expected).norm() < 1e-3 * expected.norm()
