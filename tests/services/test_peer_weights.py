"""How the peers get our weights, and what a launch of theirs is given."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import tilus
from services.executors import humming, peer, public_tilus
from services.executors.base import Built
from services.experiments import workload
from services.runner.bench import make_problem
from tests.services import fake_peer

torch = pytest.importorskip("torch", reason="weights are stored with PyTorch")


def codes_of(b_dtype, k, n):
    generator = torch.Generator().manual_seed(3)
    bits = tilus.dtype(b_dtype).bits
    return torch.randint(2**bits, (k, n), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("repeats", [(4, 4), (8, 2), (2, 8)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_thread_of_public_tilus_finds_the_codes_of_its_products(bits, repeats):
    repeat_k, repeat_n = repeats
    k, n = 2 * 16 * repeat_k, 3 * 8 * repeat_n
    codes = codes_of(f"uint{bits}", k, n)
    packed = public_tilus.pack(codes, f"uint{bits}", *repeats).numpy()
    assert packed.size == k * n * bits // 8
    held = repeat_k * repeat_n * 4 * bits // 8
    run = int(np.gcd(held, 16))
    tiles = packed.reshape(2, 3, held // run, 32, run)
    for tile_k, tile_n, lane in [(0, 0, 0), (1, 2, 31), (0, 1, 6), (1, 0, 17)]:
        own = tiles[tile_k, tile_n, :, lane].reshape(-1)
        stream = np.unpackbits(own, bitorder="little").reshape(-1, bits)
        values = stream @ (1 << np.arange(bits))
        rows = tile_k * 16 * repeat_k + np.arange(repeat_k)[:, None, None] * 16
        rows = rows + np.array([0, 1, 8, 9]) + 2 * (lane % 4)
        columns = tile_n * 8 * repeat_n + np.arange(repeat_n)[:, None] * 8 + lane // 4
        expected = codes.numpy()[
            np.broadcast_to(rows, (repeat_k, repeat_n, 4)),
            np.broadcast_to(columns, (repeat_k, repeat_n, 4)),
        ]
        assert (values == expected.reshape(-1)).all()


@pytest.fixture
def launches(monkeypatch):
    """Every launch of a kernel that would be on a GPU: its grid and its arguments."""
    seen = []
    launcher = ModuleType("tilus.runtime.launcher")
    launcher.LoadedKernel = lambda *_: lambda stream, grid, *rest: seen.append((grid, rest))
    monkeypatch.setitem(sys.modules, "tilus.runtime.launcher", launcher)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=1))
    return seen


def problem_of(b_dtype, zeros=True, **shape):
    problem = workload(b_dtype, **shape)
    if not zeros:
        problem = problem.model_copy(update={"zeros": False})
    return make_problem(problem, 2, multiprocessors=4, device="cpu")


@pytest.mark.parametrize("zeros", [True, False])
def test_public_tilus_gets_its_arguments_in_the_order_of_its_kernel(launches, zeros):
    problem = problem_of("uint4", zeros, m=17, n=512, k=256)
    spec = public_tilus.candidates(problem.workload, "sm_90")[0]
    built = Built({"kernel.cubin": b""}, {"entry": "f", "threads": 128, "shared_bytes": 0})
    public_tilus.prepare(problem, spec, built)(1)
    ((grid, (m, a, words, scales, points, c, turns)),) = launches
    parameters = spec.parameters
    block_m = 16 * parameters["warps_m"] * parameters["repeat_m"]
    block_n = 8 * parameters["warps_n"] * parameters["repeat_n"]
    assert grid == (-(-17 // block_m), 512 // block_n, parameters["split_k"])
    assert m == 17 and m.dtype == np.int32
    assert a == problem.activations[1].data_ptr() and c == problem.outputs[1].data_ptr()
    assert scales == problem.scales.data_ptr()
    assert points == (problem.zeros if zeros else problem.scales).data_ptr()
    assert len({words, turns, a, c}) == 4


class Humming:
    """What of Humming the executor calls, seen from the CPU."""

    def __init__(self, monkeypatch):
        self.launched, self.schema, self.tensors = [], None, None
        for name, members in {
            "humming": {},
            "humming.ops": {"pack_weight": self.pack},
            "humming.ops.launcher": {"launch_kernel": lambda **given: self.launched.append(given)},
            "humming.schema": {"HummingWeightSchema": self.describe},
            "humming.transform": {"prepare_and_transform_humming_tensors": self.transform},
            "humming.tune": {"get_heuristics_config": lambda config, shape_m: ("for", shape_m)},
            "humming.kernel": {},
            "humming.kernel.humming": {"HummingKernel": self},
        }.items():
            module = ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)

    def pack(self, codes, bits):
        assert codes.dtype == torch.int32 and codes.is_contiguous()
        self.codes = codes
        return codes.clone()

    def describe(self, **given):
        self.schema = given
        return SimpleNamespace(convert_symmetric_integer_weight=lambda tensors: (None, tensors))

    def transform(self, tensors, n, k, schema, torch_dtype, device):
        self.tensors = tensors
        return SimpleNamespace(to_str=lambda: f"{n} {k}"), dict(tensors)

    def prepare_kernels(self, layer, compute, tuning, device):
        return (layer, tuning)


@pytest.mark.parametrize(
    ("b_dtype", "zeros"),
    [("uint3", True), ("uint3", False), ("int3", False), ("float6_e3m2", False)],
)
def test_humming_gets_the_weight_that_the_reference_is_made_of(home, monkeypatch, b_dtype, zeros):
    home("humming", "humming-kernels", "0.1.19")
    theirs = Humming(monkeypatch)
    monkeypatch.setattr(sys, "path", sys.path[:])
    problem = problem_of(b_dtype, zeros, m=3, n=128, k=256)
    humming.prepare(problem, None, None)(1)
    assert sys.path[-1] == str(peer.home("humming"))
    assert problem.versions == {"humming-kernels": "0.1.19"}

    # its own meaning of what it is given: codes less a zero point, or less half of the range
    dtype, codes = tilus.dtype(b_dtype), theirs.codes.numpy().astype(np.int64)
    if b_dtype.startswith("float"):
        values = dtype.decode(codes.astype(np.uint8))
    elif "zero_point" in theirs.tensors:
        points = theirs.tensors["zero_point"].double().numpy()
        values = codes - points.repeat(codes.shape[1] // points.shape[1], axis=1)
    else:
        values = codes - 2 ** (dtype.bits - 1)
    scales = theirs.tensors["weight_scale"].double().numpy()
    values = values * scales.repeat(codes.shape[1] // scales.shape[1], axis=1)
    weight = dtype.decode(problem.codes.numpy()).reshape(len(problem.scales), -1, 128)
    if problem.zeros is not None:
        weight = weight - problem.zeros.double().numpy()[:, None]
    weight = (weight * problem.scales.double().numpy()[:, None]).reshape(256, 128)
    np.testing.assert_array_equal(values.T, weight)

    group = theirs.schema["weight_scale_group_size"]
    assert group == (0 if b_dtype.startswith("float") else 128)
    assert theirs.schema["is_fp_zero_point"] == ("zero_point" in theirs.tensors)
    (given,) = theirs.launched
    assert given["configs"] == ("128 256", ("for", 3))
    assert given["inputs"].data_ptr() == problem.activations[1].data_ptr()
    assert given["outputs"].data_ptr() == problem.outputs[1].data_ptr()
    assert given["locks"].shape == (humming.LOCKS,) and not given["locks"].any()


SCRIPT = Path(fake_peer.__file__)
INSTALLED = peer.absence("public-tilus", "tilus") is None


@pytest.mark.skipif(not INSTALLED, reason="the peers are not installed: bash run.sh peers")
def test_the_package_compiles_its_kernel_for_a_gpu_that_is_not_here():
    shape = workload("uint3", 1, 512, 512)
    spec = public_tilus.candidates(shape, "sm_90")[0]
    built = public_tilus.build(spec)
    assert built.files["kernel.cubin"].startswith(b"\x7fELF")
    assert built.facts["threads"] == 32 * spec.parameters["warps_n"]
    assert 0 < built.facts["shared_bytes"] < 227 << 10 and built.facts["spill_bytes"] == 0
    assert built.versions["tilus"] == "0.2.0"


@pytest.mark.skipif(not INSTALLED, reason="the peers are not installed: bash run.sh peers")
def test_the_package_says_that_a_thread_holds_the_codes_that_we_store_for_it():
    layouts, _ = peer.ask(SCRIPT, {"do": "layout", "repeats": [4, 2]}, peer.home("public-tilus"))
    codes = torch.arange(64 * 16).remainder(251).to(torch.uint8).reshape(64, 16)
    packed = public_tilus.pack(codes, "uint8", 4, 2).numpy()
    values = packed[np.argsort(layouts["bytes"])].reshape(32, -1)
    held = np.array(layouts["codes"])
    assert (values == codes.numpy()[held[..., 0], held[..., 1]]).all()
