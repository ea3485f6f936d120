"""A quantised matmul on a device: which kernel, which arguments, what is made once."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilus
from tests.tilus.fake_device import FakeDevice, FakeTensor
from tilus import compiler, config, dispatch, quantization
from tilus.compiler import Loadable, loadable, text_of
from tilus.dispatch import OnDevice, best_known, on_device, plan_of
from tilus.kernels import quantized_matmul, streaming_read
from tilus.kernels.activations import ACTIVATIONS
from tilus.kernels.problem import problem_for, relative_error
from tilus.kernels.quantized_matmul import Launch
from tilus.kernels.schedule import Schedule
from tilus.runtime import tensors
from tilus.runtime.nvrtc import Binary, Resources
from tilus.target import ARCHITECTURES, runs_on
from tilus.tuned import FOLDER, best, bucket, load

K, N = 512, 512
SMALL = Schedule(8, 64, 64, 4, 2, 1)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """Where `to` brings weights; kernels are not compiled for a GPU."""
    fake = FakeDevice()

    def built(parameters: dispatch.Parameters, arch: str) -> Loadable:
        cubin = repr((parameters, arch)).encode()
        if cubin not in fake.made:
            fake.asked["built"] += 1
            program = quantized_matmul.program(**dict(parameters))
            fake.made[cubin] = Loadable(program, text_of(program, arch), cubin)
        return fake.made[cubin]

    monkeypatch.setattr(dispatch, "built", built)
    monkeypatch.setattr(quantization, "device_of", lambda named: fake)
    return fake


def weight(b_dtype: str = "uint4", group_size: int = 64, zeros: bool = True) -> Any:
    numbers = np.random.default_rng(1).standard_normal((K, N))
    return tilus.quantize(numbers, b_dtype, group_size, zeros)


def small(*question: Any) -> Schedule:
    return SMALL


def vector(device: FakeDevice, n: int, of: str = "float16", seed: int = 0) -> FakeTensor:
    return device.activations(np.random.default_rng(seed).standard_normal(n), of)


def rows(device: FakeDevice, m: int, of: str = "float16") -> FakeTensor:
    return device.activations(np.random.default_rng(m).standard_normal((m, K)), of)


@pytest.mark.parametrize(
    ("arch", "b_dtype", "group_size", "zeros", "of", "sizes"),
    [
        ("sm_90a", "uint4", 64, True, "float16", (1, 8)),
        ("sm_90a", "int3", -1, False, "float16", (9,)),
        ("sm_80", "float6_e3m2", 64, False, "bfloat16", (3,)),
    ],
)
def test_the_product_is_that_of_the_numbers_the_weight_stands_for(
    device: FakeDevice, arch: str, b_dtype: str, group_size: int, zeros: bool, of: str,
    sizes: tuple[int, ...],
) -> None:  # fmt: skip
    """By the library's own schedules; three times, since counters must be left zero."""
    device.arch = arch
    w = weight(b_dtype, group_size, zeros)
    there, t = w.to("cuda", of), tilus.dtype(of)
    assert there.dtype == w.dtype and there.shape == (K, N)
    for m in sizes:
        a = rows(device, m, of)
        for _ in range(3):
            got = tilus.matmul(a, there)
        want = t.values(a.array).astype(np.float64) @ w.dequantize().astype(np.float64)
        assert got.array.shape == (m, N)
        limit = 1e-3 if of == "float16" else 5e-3  # scales have 8 bits there
        assert relative_error(t.values(got.array), want) < limit


@pytest.mark.parametrize(("of", "limit", "follows"), [
    ("float16", 1e-3, [(None, "relu"), (0, "none"), (1, "none"), (0, "silu")]),
    ("bfloat16", 5e-3, [(0, "gelu")]),  # scales have 8 bits there
], ids=["float16", "bfloat16"])  # fmt: skip
def test_a_bias_and_an_activation_follow_the_product(
    device: FakeDevice, of: str, limit: float, follows: list[tuple[int | None, str]]
) -> None:
    """Each combination is a kernel of its own, for any bias, of one schedule."""
    asked = []

    def choose(*question: Any) -> Schedule:
        asked.append(question)
        return SMALL

    w, t = weight(), tilus.dtype(of)
    there, a = w.to("cuda", of, choose=choose), rows(device, 5, of)
    plain = tilus.matmul(a, there).array
    product = t.values(a.array).astype(np.float64) @ w.dequantize().astype(np.float64)
    for seed, activation in follows:
        bias = None if seed is None else vector(device, N, of, seed)
        got = tilus.matmul(a, there, bias, activation)
        want = ACTIVATIONS[activation].meaning(
            product if bias is None else product + t.values(bias.array)
        )
        assert relative_error(t.values(got.array), want) < limit, activation
    np.testing.assert_array_equal(tilus.matmul(a, there).array, plain)
    assert asked == [(device, there.problem, 8, N, K)]
    made = {
        (one.get("bias", False), one.get("activation", "none"))
        for one in map(dict, on_device(device).kernels)
    }
    assert made == {(False, "none"), *((seed is not None, name) for seed, name in follows)}
    assert len(there.calls) == len(made) == device.asked["load"]
    device.is_current = False
    seed, activation = follows[-1]
    again = tilus.matmul(a, there, vector(device, N, of, seed), activation, out=got)
    assert again is got and relative_error(t.values(again.array), want) < limit
    assert len(there.calls) == len(made)


def test_what_a_call_needs_is_made_once(device: FakeDevice) -> None:
    w = weight().to("cuda", choose=small)
    a, out = rows(device, 5), rows(device, 5).new_empty((5, N))
    assert tilus.matmul(a, w, out=out) is out
    before, arrays = device.asked.copy(), len(device.arrays)
    first = out.array.copy()
    out.array[...] = 0
    for _ in range(2):
        tilus.matmul(a, w, out=out)
    assert device.asked == before and len(device.arrays) == arrays
    np.testing.assert_array_equal(out.array, first)
    other = weight().to("cuda", choose=small)  # another weight: kernel and scratch are there
    tilus.matmul(a, other, out=out)
    assert {name for name in before if device.asked[name] > before[name]} <= {"place", "tensor_map"}


def test_no_rows_are_no_launch(device: FakeDevice) -> None:
    out = tilus.matmul(rows(device, 0), weight().to("cuda"))
    assert out.array.shape == (0, N) and not device.asked["load"]


def test_a_map_is_made_for_each_address_and_forgotten_in_the_end(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "MOST_MAPS", 2)
    w, many = weight().to("cuda"), [rows(device, 1) for _ in range(3)]
    for a, made in zip([*many[:2], *many[:2], many[2], many[0]], (1, 2, 2, 2, 3, 4), strict=True):
        tilus.matmul(a, w)
        assert device.asked["tensor_map"] == made


def test_calls_are_forgotten_in_the_end(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "MOST_CALLS", 2)
    w = weight().to("cuda", choose=small)
    for m in (1, 2, 3):
        tilus.matmul(rows(device, m), w)
    assert [m for m, *_ in w.calls] == [3] and device.asked["load"] == 1


def test_a_schedule_is_chosen_once_for_all_rows_of_a_bucket(
    device: FakeDevice,
) -> None:
    asked = []

    def choose(*question: Any) -> Schedule:
        asked.append(question)
        return SMALL

    w = weight().to("cuda", choose=choose)
    for m in (2, 2, 1, 8, 9, 16, 17):
        tilus.matmul(rows(device, m), w)
    tilus.matmul(rows(device, 5), weight().to("cuda", choose=choose))
    assert asked == [(device, w.problem, m, N, K) for m in (8, 1, 16, 32)]
    (parameters,) = on_device(device).kernels
    assert dict(parameters)["block_n"] == SMALL.block_n
    (kernel,) = on_device(device).kernels.values()
    grid = plan_of(w.problem, SMALL, 2, N, K, 5).launch.grid
    assert kernel.launches[:2] == [(7, grid)] * 2


def test_buckets_are_where_heights_of_tiles_change() -> None:
    sizes = [1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 1000]
    assert [bucket(m) for m in sizes] == [1, 8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 1024]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("m", [1, 8, 9, 16, 17, 33, 128, 1000])
def test_without_another_choice_it_is_the_best_that_is_known(arch: str, m: int) -> None:
    problem = problem_for("int5", 128, False, "float16", 28672, 8192)
    assert (problem.n_multiple, problem.k_multiple) == (3584, 1024)
    device = FakeDevice(arch)
    device.name = "NVIDIA H200"
    chosen = best_known(device, problem, m, 28672, 8192)
    assert chosen == best("nvidia-h200", arch, problem, m, 28672, 8192, device.multiprocessors)
    plan = plan_of(problem, chosen, m, 28672, 8192, 132)
    assert plan.launch == quantized_matmul.launch(dict(plan.parameters), m, 28672, 8192, 132)
    assert list(plan.sizes.items()) == [
        ("m", m), ("n", 28672), ("k", 8192), ("blocks", plan.launch.grid[0])
    ]  # fmt: skip
    assert quantized_matmul.problem_of(dict(plan.parameters)) == problem


def test_what_was_tuned_on_such_a_gpu_is_taken() -> None:
    device = FakeDevice("sm_90a")
    device.name = "NVIDIA H200"
    for entry in load(FOLDER / "nvidia-h200.jsonl"):
        found = best_known(device, entry.problem, entry.m, entry.n, entry.k)
        assert found == entry.schedule


def launch(floats: int, counters: int = 1) -> Launch:
    return Launch((1, 1, 1), 4 * floats, counters)


def test_each_stream_has_scratch_of_its_own_that_is_large_enough() -> None:
    shared = OnDevice(device := FakeDevice())
    first = shared.scratch(1, launch(100, 3))
    assert first.workspace.numel() >= 100 and first.counters.numel() >= 3
    assert not first.counters.array.any()
    assert shared.scratch(1, launch(90)) is first
    assert shared.scratch(2, launch(100)) is not first
    assert device.asked["garbage"] == 3  # with the spare one
    larger = shared.scratch(1, launch(1000))
    assert larger.workspace.numel() >= 1000 and shared.scratch(1, launch(100)) is larger
    assert shared.scratch(1, launch(1000, 50)).counters.numel() >= 50
    assert first in shared.made, "a captured graph may know it"


def test_a_stream_that_is_captured_first_takes_the_spare_scratch() -> None:
    shared = OnDevice(device := FakeDevice())
    eager = shared.scratch(1, launch(100, 9))
    assert device.asked["settle"] == 1, "other streams must see zeros"
    device.is_capturing = True
    assert shared.scratch(1, launch(100, 9)) is eager
    taken = shared.scratch(2, launch(100, 9))
    assert taken is not eager and shared.scratch(2, launch(1)) is taken
    with pytest.raises(tilus.TilusError, match="gets none while a CUDA graph is captured"):
        shared.scratch(3, launch(1))
    device.is_capturing = False
    shared.scratch(1, launch(200))
    device.is_capturing = True
    assert shared.scratch(3, launch(200)) is not taken
    with pytest.raises(tilus.TilusError, match="gets none"):
        shared.scratch(2, launch(300))


def test_a_graph_is_captured_after_one_call(device: FakeDevice) -> None:
    w, a = weight().to("cuda", choose=small), rows(device, 3)
    device.is_capturing = True
    with pytest.raises(tilus.TilusError, match="call matmul once with as many rows before"):
        tilus.matmul(a, w)
    device.is_capturing = False
    tilus.matmul(a, w)
    device.is_capturing, device.handle = True, 8
    tilus.matmul(a, w)
    assert set(on_device(device).scratches) == {7, 8}


def test_another_current_device_is_left_as_it_was(device: FakeDevice) -> None:
    w, a = weight().to("cuda", choose=small), rows(device, 3)
    want = tilus.matmul(a, w).array
    device.is_current = False
    np.testing.assert_array_equal(tilus.matmul(a, w).array, want)
    assert not device.is_current


def test_each_thread_enters_the_device_once(device: FakeDevice) -> None:
    w, a = weight().to("cuda", choose=small), rows(device, 3)
    want = tilus.matmul(a, w).array
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            got = pool.submit(tilus.matmul, a, w).result()
            np.testing.assert_array_equal(got.array, want)
    assert device.asked["enter"] == 2


def test_wrong_arguments_are_refused_in_words(device: FakeDevice) -> None:
    w = weight().to("cuda")
    numbers = np.zeros((4, K), np.float16)
    elsewhere = FakeDevice(index=0)
    graded = rows(device, 4)
    graded.requires_grad = device.grads = True
    for message, a in [
        ("a is a ndarray and the weight is on cuda:1", numbers),
        ("a is on cuda:0 and the weight on cuda:1: move one", elsewhere.activations(numbers)),
        ("a is bfloat and the weight was placed for float16: cast it", rows(device, 4, "bfloat16")),
        (r"want a \[M, 512\]", device.activations(numbers[:, 1:])),
        (r"a is \(4, 512, 1\) .* a.reshape\(-1, 512\)", device.activations(numbers[..., None])),
        (r"strides \(1, 4\): want whole rows .* a.contiguous\(\)",
         FakeTensor(device, np.zeros((K, 4), np.float16).T, "half")),
        (r"begins at no multiple of 16 bytes.* a.clone\(\)",
         FakeTensor(device, np.zeros(4 * K + 8, np.float16)[1 : 4 * K + 1].reshape(4, K), "half")),
        (r"requires a gradient.* torch.no_grad\(\)", graded),
    ]:  # fmt: skip
        with pytest.raises(tilus.TilusError, match=message):
            tilus.matmul(a, w)
    device.grads = False
    for message, bias in [
        (
            r"bias is \(511,\) and the weight \(512, 512\): want .* bias \[512\]",
            vector(device, 511),
        ),
        (r"bias is \(1, 512\)", rows(device, 1)),
        ("bias is bfloat and the weight was placed for float16", vector(device, N, "bfloat16")),
        ("bias is a ndarray", np.zeros(N, np.float16)),
        ("bias is on cuda:0", vector(elsewhere, N)),
    ]:
        with pytest.raises(tilus.TilusError, match=message):
            tilus.matmul(graded, w, bias)
    with pytest.raises(tilus.TilusError, match="no activation 'swish': there are none, relu, silu"):
        tilus.matmul(graded, w, activation="swish")
    for message, out in [
        (r"out is \(3, 512\) .* out \[M, 512\]", graded.new_empty((3, N))),
        (r"out is \(4, 511\)", graded.new_empty((4, N - 1))),
        ("out is bfloat", rows(device, 4, "bfloat16")),
    ]:
        with pytest.raises(tilus.TilusError, match=message):
            tilus.matmul(graded, w, out=out)
    assert not device.asked["load"]


def test_a_weight_that_no_kernel_takes_is_refused_when_it_is_placed(device: FakeDevice) -> None:
    numbers = np.ones((120, 8))
    with pytest.raises(tilus.TilusError, match="group size 24: the kernel takes -1"):
        tilus.quantize(numbers, "uint4", 24).to("cuda")
    with pytest.raises(tilus.TilusError, match="A in float16 or bfloat16, not float32"):
        tilus.quantize(numbers, "uint4").to("cuda", "torch.float32")


def test_numpy_arrays_are_for_the_weight_that_is_not_placed(device: FakeDevice) -> None:
    w = weight()
    with pytest.raises(tilus.TilusError, match=r"for PyTorch tensors take w.to\(a.device\)"):
        tilus.matmul(rows(device, 2), w)
    a = np.ones((2, K), np.float16)
    out = np.zeros((2, N), np.float16)
    assert tilus.matmul(a, w, out=out) is out
    np.testing.assert_array_equal(out, tilus.matmul(a, w))
    bias = np.linspace(-30, 5, N).astype(np.float32)
    sums = a.astype(np.float32) @ w.dequantize() + bias
    for activation, row in ACTIVATIONS.items():
        got = tilus.matmul(a, w, bias, activation)
        np.testing.assert_array_equal(got, row.meaning(sums).astype(np.float16))
    with pytest.raises(tilus.TilusError, match=r"bias is \(1, 512\) .* want bias \[N\]"):
        tilus.matmul(a, w, bias[None])
    with pytest.raises(tilus.TilusError, match="no activation 'swish'"):
        tilus.matmul(a, w, activation="swish")


@pytest.mark.parametrize(("capability", "arch"), [
    ((8, 0), "sm_80"), ((8, 6), "sm_86"), ((8, 7), "sm_86"), ((8, 9), "sm_89"), ((9, 0), "sm_90a"),
    ((10, 0), "sm_100a"), ((12, 0), "sm_120a"), ((7, 5), None), ((10, 3), None), ((12, 1), None),
])  # fmt: skip
def test_the_code_that_a_gpu_runs(capability: tuple[int, int], arch: str | None) -> None:
    if arch is None:
        with pytest.raises(tilus.TilusError, match=r"no code for a GPU of compute capability"):
            runs_on(*capability)
        return
    assert runs_on(*capability) == arch


def test_a_cubin_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_cubin(text: str, entry: str, arch: str, shared_bytes: int) -> Binary:
        compiled.append(arch)
        return Binary(f"{entry} {arch}".encode(), Resources(1, shared_bytes, 0, False), "", 0.0)

    monkeypatch.setattr(compiler.nvrtc, "compile_cubin", compile_cubin)
    monkeypatch.setattr(config, "CACHE", tmp_path / "new")
    program = streaming_read.program()
    for arch in ("sm_80", "sm_90", "sm_80"):
        made = loadable(program, arch)
        assert made.cubin == f"tilus_streaming_read {arch}".encode()
        assert made.source == text_of(program, arch)
    assert compiled == ["sm_80", "sm_90"]
    assert {path.suffix for path in (tmp_path / "new" / "cubin").iterdir()} == {".cubin"}
    monkeypatch.setattr(config, "CACHE", Path("off"))
    loadable(program, "sm_80")
    assert compiled == ["sm_80", "sm_90", "sm_80"] and not Path("off").exists()


def test_without_pytorch_placing_a_weight_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(tilus.TilusError, match="PyTorch is not installed: pip install torch"):
        weight().to("cuda")


class FakeTorch(ModuleType):
    """What is asked of PyTorch to find a device: it has one GPU, of compute capability 9.0."""

    def __init__(self, devices: int) -> None:
        super().__init__("torch")
        self.float16, self.bfloat16, self.Tensor = "half", "bfloat", FakeTensor
        self.is_grad_enabled = lambda: False
        self._C = SimpleNamespace(_cuda_getDevice=lambda: 0)
        facts = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, multi_processor_count=132)
        self.cuda = SimpleNamespace(
            is_available=lambda: devices > 0, device_count=lambda: devices, init=lambda: None,
            current_device=lambda: 0, get_device_properties=lambda index: facts,
            is_current_stream_capturing=lambda: False,
            current_stream=lambda of: SimpleNamespace(cuda_stream=40 + of),
        )  # fmt: skip

    def device(self, named: str) -> Any:
        kind, _, index = named.partition(":")
        if kind not in ("cuda", "cpu"):
            raise RuntimeError("Expected one of cpu, cuda")
        return Named(kind, int(index) if index else None)


@dataclass(frozen=True)
class Named:
    type: str
    index: int | None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


@pytest.mark.parametrize(("devices", "named", "message"), [
    (1, "cpu", r"to\('cpu'\): the kernels run on CUDA devices"),
    (1, "gpu", r"to\('gpu'\): PyTorch knows no such device, want one as in \"cuda\""),
    (1, "cuda:1", "finds 1 CUDA devices here, counted from 0"),
    (0, "cuda", "finds no CUDA device here"),
])  # fmt: skip
def test_a_device_that_is_not_there_is_refused(
    devices: int, named: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(devices))
    with pytest.raises(tilus.TilusError, match=message):
        tensors.device_of(named)


def test_a_device_is_one_however_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(1))
    monkeypatch.setattr(tensors, "_device_at", cache(tensors.TorchDevice))
    found = tensors.device_of("cuda")
    assert found is tensors.device_of("cuda:0")
    assert (found.index, found.name, found.arch) == (0, "NVIDIA H200", "sm_90a")
    assert (found.multiprocessors, found.current(), found.stream_of(0)) == (132, 0, 40)
