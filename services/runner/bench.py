"""A GPU with the inputs of one workload on it; only the measuring child comes here.

Inputs come from a generator seeded by the workload alone, so all executors of a bar group get equal
ones. Each slot has its own copy of the weight, its own activation and its own output; launches
rotate over the slots."""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

import tilus
from services.executors.base import (
    Built,
    Executor,
    Launch,
    Problem,
    group_count,
    installed,
    problem_bytes,
)
from services.gpu import Device, GpuError, State, devices, state, throttled
from services.messages import KernelSpec, Workload
from services.runner.measure import OutOfMemory, Poisoned
from tilus.kernels import LIBRARY

if TYPE_CHECKING:
    from torch import Tensor
    from torch.cuda import CUDAGraph, Event

FLUSH_BYTES = 128 << 20
SLOTS = (2, 32)
COLUMNS = 2048  # of the reference at a time
PIECE = 64 << 20  # bytes hashed at a time
ACTIVATION = 0.125  # standard deviation, at most; scales make up for it
HEAD_START_CYCLES = 8_000_000  # the device waits this long (4 ms), so that the host stays ahead
GRAPH_LAUNCHES, GRAPH_REPLAYS = 40, 5
FLOOR = "streaming_read"
VECTOR_BYTES = 16  # what it reads at a time


def open_bench(workload: Workload, uuid: str, floor: Built | None) -> "TorchBench":
    """The bench on the GPU of that uuid; LookupError if this process cannot see it."""
    return TorchBench(workload, take_device(uuid), floor)


def take_device(uuid: str) -> str:
    """Work on the GPU of that uuid, of any for none, from here on; returns its uuid.

    LookupError if this process cannot see it.
    """
    torch = import_module("torch")
    for index in range(torch.cuda.device_count()):
        found = str(torch.cuda.get_device_properties(index).uuid).removeprefix("GPU-")
        if not uuid or found == uuid.removeprefix("GPU-"):
            torch.cuda.set_device(index)
            torch.cuda.set_stream(torch.cuda.Stream())
            return f"GPU-{found}"
    raise LookupError(f"there is no GPU {uuid} among {torch.cuda.device_count()}")


class TorchBench:
    """The current CUDA device; inputs are made when they are first needed."""

    def __init__(self, workload: Workload, uuid: str, floor: Built | None) -> None:
        self.torch = import_module("torch")
        self.workload = workload
        self.floor = floor
        self.properties = self.torch.cuda.get_device_properties(self.torch.cuda.current_device())
        self.nvml = _Nvml(uuid)
        self.device = Device(
            self.torch.cuda.current_device(),
            self.properties.name,
            uuid,
            self.nvml.driver,
            f"sm_{self.properties.major}{self.properties.minor}",
        )

    @cached_property
    def slots(self) -> int:
        """Enough copies of the weight to miss the L2, two at least."""
        bits = tilus.dtype(self.workload.b_dtype).bits
        needed: int = -(-4 * self.properties.L2_cache_size // problem_bytes(self.workload, bits))
        return max(SLOTS[0], min(SLOTS[1], needed))

    @cached_property
    def problem(self) -> Problem:
        """The inputs on the device; OutOfMemory if they do not fit."""
        with self._memory():
            return make_problem(
                self.workload, self.slots, self.properties.multi_processor_count, "cuda"
            )

    @cached_property
    def reference(self) -> "Tensor":
        """The right outputs of all slots, [slots, m, n] in float64."""
        with self._memory():
            return reference(self.problem)

    @cached_property
    def inputs_sha256(self) -> str:
        """Digest of the weight, the scales, the zeros and the activations, in this order."""
        return inputs_sha256(self.problem)

    @cached_property
    def versions(self) -> dict[str, str]:
        """The packages that took part in measuring."""
        packages = {name: installed(name) for name in ("numpy", "cuda-core", "cuda-bindings")}
        known = {name: version for name, version in packages.items() if version}
        known |= {"torch": self.torch.__version__, "cuda": str(self.torch.version.cuda)}
        return known | (self.problem.versions if "problem" in vars(self) else {})

    def prepare(self, executor: Executor, spec: KernelSpec | None, built: Built | None) -> Launch:
        """The call of this kernel on the inputs."""
        with self._memory():
            return executor.prepare(self.problem, spec, built)

    def relative_error(self, launch: Launch) -> float:
        """The worst slot's norm(out - reference) / norm(reference); outputs are poisoned before."""
        outputs = self.problem.outputs
        outputs.fill_(math.nan)
        for slot in range(self.slots):
            launch(slot)
        self.torch.cuda.synchronize()
        errors = [
            (out.double().sub_(right).norm() / right.norm()).item()
            for out, right in zip(outputs, self.reference, strict=True)
        ]
        return max(errors) if all(map(math.isfinite, errors)) else math.inf

    def times(self, launch: Launch, warm_ups: int, repeats: int) -> list[float]:
        """Event times in ms of `repeats` launches after `warm_ups`, the L2 flushed before each."""
        slots = self._rotation()
        for slot in islice(slots, warm_ups):
            self._flush.zero_()
            launch(slot)
        self.torch.cuda._sleep(HEAD_START_CYCLES)
        pairs = [self._timed(launch, slot) for slot in islice(slots, repeats)]
        self.torch.cuda.synchronize()
        return [start.elapsed_time(stop) for start, stop in pairs]

    def graph_ms(self, launch: Launch) -> float | None:
        """Mean ms of a launch in a replayed graph over all slots; None where they fit the L2."""
        bits = tilus.dtype(self.workload.b_dtype).bits
        if self.slots * problem_bytes(self.workload, bits) < 2 * self.properties.L2_cache_size:
            return None
        rounds = max(1, GRAPH_LAUNCHES // self.slots)
        graph = self._captured(launch, rounds)
        if graph is None:
            return None
        graph.replay()
        return statistics.median(
            self._elapsed(graph.replay) / (rounds * self.slots) for _ in range(GRAPH_REPLAYS)
        )

    def floor_times(self, size: int, warm_ups: int, repeats: int) -> list[float]:
        """Times of a streaming read of `size` bytes, of random bits, from two places in turn."""
        if self.floor is None:
            return []
        with self._memory():
            launch = self._streaming_read(size, self.floor)
        return self.times(launch, warm_ups, repeats)

    def nothing(self) -> Launch:
        """The call of a kernel that returns at once."""
        return lambda slot: self.torch.cuda._sleep(0)

    def state(self) -> State | None:
        """Clocks, temperature and power now."""
        return self.nvml.state()

    def check(self) -> None:
        """Poisoned if the context is unusable."""
        try:
            self.torch.cuda.synchronize()
            self.torch.zeros(1, device="cuda").item()
        except Exception as error:
            raise Poisoned(f"{type(error).__name__}: {_first_line(error)}") from error

    def _memory(self) -> "_Memory":
        return _Memory(self.torch.OutOfMemoryError)

    def _rotation(self) -> Iterator[int]:
        while True:
            yield from range(self.slots)

    @cached_property
    def _flush(self) -> "Tensor":
        size = max(FLUSH_BYTES, 2 * self.properties.L2_cache_size)
        return self.torch.empty(size, dtype=self.torch.uint8, device="cuda")

    def _timed(self, launch: Launch, slot: int) -> "tuple[Event, Event]":
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        launch(slot)
        stop.record()
        return start, stop

    def _elapsed(self, work: Callable[[], None]) -> float:
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        self.torch.cuda.synchronize()
        return float(start.elapsed_time(stop))

    def _captured(self, launch: Launch, rounds: int) -> "CUDAGraph | None":
        graph = self.torch.cuda.CUDAGraph()
        try:
            with self.torch.cuda.graph(graph):
                for _ in range(rounds):
                    for slot in range(self.slots):
                        launch(slot)
        except Exception:
            self.check()
            return None
        return graph

    def _streaming_read(self, size: int, floor: Built) -> Launch:
        torch = self.torch
        whole = -(-size // VECTOR_BYTES) * VECTOR_BYTES
        sizes = LIBRARY[FLOOR].launch(whole, self.properties.multi_processor_count)
        words = [
            torch.empty(sizes.words, dtype=torch.int32, device="cuda").random_()
            for _ in range(SLOTS[0])
        ]
        out = torch.empty(max(16, sizes.output_bytes), dtype=torch.uint8, device="cuda")
        kernel = import_module("tilus.runtime.launcher").LoadedKernel(*floor.load())

        def launch(slot: int) -> None:
            kernel(
                torch.cuda.current_stream().cuda_stream,
                sizes.grid,
                words[slot % len(words)].data_ptr(),
                out.data_ptr(),
                np.int32(sizes.words),
                np.int32(sizes.grid[0]),
            )

        return launch


class _Memory:
    """Turns PyTorch's out-of-memory error into ours."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self.error):
            raise OutOfMemory(_first_line(error)) from error


class _Nvml:
    """A device's state through NVML, or through nvidia-smi where its package is absent."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.library = import_module("pynvml") if installed("nvidia-ml-py") else None
        if self.library is not None:
            self.library.nvmlInit()
            self.handle = self.library.nvmlDeviceGetHandleByUUID(uuid)

    @property
    def driver(self) -> str:
        """The driver's version."""
        if self.library is None:
            return next((device.driver for device in devices()), "unknown")
        version: str = self.library.nvmlSystemGetDriverVersion()
        return version

    def state(self) -> State | None:
        """What the device is doing; None if it does not say."""
        if self.library is None:
            try:
                return state(self.uuid)
            except GpuError:
                return None
        try:
            return self._state(self.library)
        except self.library.NVMLError:
            return None

    def _state(self, nvml: ModuleType) -> State:
        return State(
            sm_mhz=nvml.nvmlDeviceGetClockInfo(self.handle, nvml.NVML_CLOCK_SM),
            mem_mhz=nvml.nvmlDeviceGetClockInfo(self.handle, nvml.NVML_CLOCK_MEM),
            temperature_c=nvml.nvmlDeviceGetTemperature(self.handle, nvml.NVML_TEMPERATURE_GPU),
            power_w=nvml.nvmlDeviceGetPowerUsage(self.handle) / 1000,
            throttled=throttled(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle)),
        )


def make_problem(workload: Workload, slots: int, multiprocessors: int, device: str) -> Problem:
    """Inputs of a workload, equal for all executors and runs; outputs are of order 1."""
    torch = import_module("torch")
    m, n, k = workload.m, workload.n, workload.k
    generator = torch.Generator(device=device).manual_seed(_seed(workload))
    options = {"generator": generator, "device": device}
    noise = torch.randn(slots, m, k, **options)
    outputs = torch.empty(slots, m, n, dtype=torch.float16, device=device)
    if workload.b_dtype == workload.a_dtype:
        weight = torch.randn(k, n, dtype=torch.float16, **options)
        weight /= ACTIVATION * math.sqrt(k)
        activations = noise.mul_(ACTIVATION).half()
        return Problem(workload, multiprocessors, slots, activations, outputs, weight=weight)
    finite, values = _finite_codes(workload.b_dtype)
    table = torch.as_tensor(finite, device=device)
    codes = torch.randint(len(finite), (k, n), dtype=torch.uint8, **options)
    if len(finite) < 2 ** tilus.dtype(workload.b_dtype).bits:
        codes = table[codes.int()]
    groups = group_count(workload)
    zeros = None
    if workload.zeros:
        low, high = float(values.min()), float(values.max())
        zeros = torch.rand(groups, n, **options).mul_(high - low).add_(low).half()
    gain = _spread(values, workload.zeros) * math.sqrt(k)
    deviation = _deviation(gain)
    scales = torch.rand(groups, n, **options).add_(0.5).div_(gain * deviation).half()
    activations = noise.mul_(deviation).half()
    return Problem(workload, multiprocessors, slots, activations, outputs, codes, scales, zeros)


def reference(problem: Problem) -> "Tensor":
    """The outputs in float64 [slots, m, n], from the codes, scales, zeros as they are stored."""
    torch = import_module("torch")
    activations = problem.activations.double()
    outputs = torch.empty(problem.outputs.shape, dtype=torch.float64, device=activations.device)
    weight_of = _weight_of(problem)
    for first in range(0, problem.workload.n, COLUMNS):
        columns = slice(first, first + COLUMNS)
        outputs[..., columns] = activations @ weight_of(columns)
    return outputs


def _weight_of(problem: Problem) -> "Callable[[slice], Tensor]":
    """Some columns of the weight in float64."""
    torch = import_module("torch")
    if problem.weight is not None:
        weight = problem.weight
        return lambda columns: weight[:, columns].double()
    if problem.codes is None or problem.scales is None:
        raise ValueError("a problem has a weight or codes with scales")
    codes, scales, zeros = problem.codes, problem.scales, problem.zeros
    dtype = tilus.dtype(problem.workload.b_dtype)
    values = dtype.decode(np.arange(2**dtype.bits, dtype=np.uint8))
    table = torch.as_tensor(values, device=codes.device)

    def dequantised(columns: slice) -> "Tensor":
        part = table[codes[:, columns].int()].unflatten(0, (len(scales), -1))
        if zeros is not None:
            part -= zeros[:, None, columns].double()
        part *= scales[:, None, columns].double()
        return part.flatten(0, 1)

    return dequantised


def inputs_sha256(problem: Problem) -> str:
    """Digest of the weight, the scales, the zeros and the activations, in this order."""
    torch = import_module("torch")
    sha = hashlib.sha256()
    tensors = (problem.codes, problem.weight, problem.scales, problem.zeros, problem.activations)
    for tensor in tensors:
        if tensor is None:
            continue
        for piece in tensor.contiguous().view(torch.uint8).flatten().split(PIECE):
            sha.update(piece.cpu().numpy())
    return sha.hexdigest()


def _seed(workload: Workload) -> int:
    return int(workload.key()[:15], 16)


def _finite_codes(b_dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The codes whose values are finite in float16, and these values in float64."""
    dtype = tilus.dtype(b_dtype)
    codes = np.arange(2**dtype.bits, dtype=np.uint8)
    values = dtype.decode(codes)
    finite = np.abs(values) <= np.finfo(np.float16).max
    return codes[finite], values[finite]


def _deviation(gain: float) -> float:
    """That of the activations, a power of two: the least scale, half of 1 / (it * gain), is normal.

    Formats of 5 exponent bits and more have values so large that smaller activations must help.
    """
    most = 0.5 / (gain * float(np.finfo(np.float16).tiny))
    return min(ACTIVATION, 2.0 ** math.floor(math.log2(most)))


def _spread(values: np.ndarray, zeros: bool) -> float:
    """The root mean square of a uniform code's value, less its zero point."""
    if not zeros:
        return float(np.sqrt(np.mean(values**2)))
    width = float(values.max() - values.min())
    return math.sqrt(float(values.var()) + width**2 / 12)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
