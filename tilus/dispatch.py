"""The quantised matmul on a GPU: which kernel a call takes, and the call.

What a call needs is made when it is made for the first time, and kept: the kernel, by problem and
schedule, for a device; the arguments, by rows and stream, for a weight. Kernels on one stream run
one after another, so they share scratch memory.
"""

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from threading import local
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tilus.codegen import map_numbers
from tilus.compiler import Loadable, loadable
from tilus.dtypes import DType
from tilus.errors import TilusError
from tilus.gpus import folder_name
from tilus.kernels import quantized_matmul
from tilus.kernels.problem import Problem
from tilus.kernels.quantized_matmul import F32_BYTES, Launch
from tilus.kernels.schedule import Schedule
from tilus.tuned import best, bucket

Tensor = Any  # of PyTorch
Parameters = tuple[tuple[str, Any], ...]  # of `quantized_matmul.program`, in order of their names
ALIGNED = 16  # bytes, at which every tensor begins
MOST_CALLS = 256  # that a weight remembers
MOST_MAPS = 64  # of A, by its address, that a call remembers


class Kernel(Protocol):
    """A kernel on a device."""

    def on(self, stream: int, grid: tuple[int, int, int]) -> Callable[..., None]:
        """What launches it there, and takes nothing but the arguments."""


class Device(Hashable, Protocol):
    """What a call asks of a device: see `tilus.runtime.tensors.TorchDevice`."""

    index: int
    name: str
    arch: str
    multiprocessors: int
    tensor: Any  # the type of a tensor
    elements: dict[str, Any]
    grad_enabled: Callable[[], bool]
    capturing: Callable[[], bool]
    current: Callable[[], int]
    stream_of: Callable[[int], int]
    thread: local  # of which each thread sees its own: whether it has `entered`

    def enter(self) -> None: ...
    def selected(self) -> AbstractContextManager[None]: ...
    def place(self, array: npt.NDArray[Any], element: str | None = None) -> Tensor: ...
    def garbage(self, elements: int) -> Tensor: ...
    def zeros(self, elements: int) -> Tensor: ...
    def settle(self) -> None: ...
    def load(self, cubin: bytes, entry: str, threads: int, shared_bytes: int) -> Kernel: ...
    def tensor_map(self, address: int, *numbers: Any) -> object: ...


Key = tuple[int, int, bool, str]  # of a call: rows, stream, whether there is a bias, activation
Choice = Callable[[Device, Problem, int, int, int], Schedule]  # for a problem and its m, n, k


def best_known(device: Device, problem: Problem, m: int, n: int, k: int) -> Schedule:
    """The schedule that was measured to be the fastest, or else is estimated to be."""
    gpu, multiprocessors = folder_name(device.name), device.multiprocessors
    return best(gpu, device.arch, problem, m, n, k, multiprocessors)


@cache
def chosen(choose: Choice, device: Device, problem: Problem, m: int, n: int, k: int) -> Schedule:
    """The choice, made once for all numbers of rows that count as m."""
    return choose(device, problem, m, n, k)


@dataclass(frozen=True)
class Plan:
    """How a product of so many rows is computed: by which kernel, and how that is launched."""

    parameters: Parameters
    launch: Launch
    sizes: dict[str, int]  # the kernel's integers, in its order


def plan_of(
    problem: Problem, schedule: Schedule, m: int, n: int, k: int, multiprocessors: int
) -> Plan:
    """The plan for a device of so many multiprocessors."""
    parameters = problem.parameters | asdict(schedule)
    launch = quantized_matmul.launch(parameters, m, n, k, multiprocessors)
    sizes = {"m": m, "n": n, "k": k, "blocks": launch.grid[0]}
    return Plan(tuple(sorted(parameters.items())), launch, sizes)


@cache
def built(parameters: Parameters, arch: str) -> Loadable:
    """The kernel, compiled."""
    return loadable(quantized_matmul.program(**dict(parameters)), arch)


@dataclass(frozen=True)
class Scratch:
    """Memory for what blocks hand each other: float32, and counters that are zero in between."""

    workspace: Tensor
    counters: Tensor

    def holds(self, launch: Launch) -> bool:
        """Whether it is large enough."""
        floats = launch.workspace_bytes // F32_BYTES
        return bool(floats <= self.workspace.numel() and launch.counters <= self.counters.numel())


class OnDevice:
    """What weights on a device share: loaded kernels, and scratch memory, one for each stream.

    Nothing can be made while a stream is captured, so there is one scratch to spare, as large as
    any in use, for a stream that is captured before anything else ran on it. Captured graphs know
    scratch by its address: none is ever freed. Sizes are doubled, so that little is left behind.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.kernels: dict[Parameters, Kernel] = {}
        self.scratches: dict[int, Scratch] = {}  # by stream
        self.spare: Scratch | None = None
        self.made: list[Scratch] = []

    def kernel(self, parameters: Parameters) -> Kernel:
        """The kernel, loaded the first time."""
        if parameters not in self.kernels:
            if self.device.capturing():
                raise TilusError(
                    "matmul: the kernel for so many rows is not loaded, and cannot be while a CUDA"
                    " graph is captured: call matmul once with as many rows before"
                )
            made = built(parameters, self.device.arch)
            source = made.source
            self.kernels[parameters] = self.device.load(
                made.cubin, source.entry, source.threads, source.shared_bytes
            )
        return self.kernels[parameters]

    def scratch(self, stream: int, launch: Launch) -> Scratch:
        """Scratch memory for a launch on the stream, which is the current one."""
        held = self.scratches.get(stream)
        fits = held is not None and held.holds(launch)
        if self.device.capturing():
            held = held if fits else self.taken(launch)
        else:
            held = held if fits else self.make(launch)
            if self.spare is None or not self.spare.holds(launch):
                self.spare = self.make(launch)
                self.device.settle()  # its counters are zero for other streams too
        assert held is not None
        self.scratches[stream] = held
        return held

    def taken(self, launch: Launch) -> Scratch:
        """The spare one."""
        found, self.spare = self.spare, None
        if found is None or not found.holds(launch):
            raise TilusError(
                "matmul: this stream has no scratch memory, and gets none while a CUDA graph is"
                " captured: call matmul once on it, with as many rows, before"
            )
        return found

    def make(self, launch: Launch) -> Scratch:
        """New scratch memory."""
        floats, counters = doubled(launch.workspace_bytes // F32_BYTES), doubled(launch.counters)
        new = Scratch(self.device.garbage(floats), self.device.zeros(counters))
        self.made.append(new)
        return new


def doubled(size: int) -> int:
    """The next power of two."""
    return 1 << max(0, size - 1).bit_length()


@cache
def on_device(device: Device) -> OnDevice:
    """What weights on `device` share."""
    return OnDevice(device)


@dataclass(frozen=True, eq=False)
class Call:
    """A product of a weight and so many rows on a stream, all ready but where its tensors are."""

    launch: Callable[..., None]
    before: tuple[int, ...]  # arguments between A and the bias or C
    behind: tuple[Any, ...]  # and behind C, but for maps
    maps_of: Callable[[int], tuple[object, ...]]  # what the copy engine is told of A at an address
    maps: dict[int, tuple[object, ...]] = field(default_factory=dict)

    def __call__(self, a: int, c: int, bias: tuple[int, ...] = ()) -> None:
        maps = self.maps.get(a)
        if maps is None:
            if len(self.maps) == MOST_MAPS:
                self.maps.clear()
            maps = self.maps[a] = self.maps_of(a)
        self.launch(a, *self.before, *bias, c, *self.behind, *maps)


@dataclass(frozen=True, eq=False)
class DeviceWeight:
    """A quantised weight [K, N] on a GPU, for activations in `problem.a_dtype`.

    `words` are in the one stored format, scales and zeros [K/g, N] in the type of activations.
    """

    problem: Problem
    shape: tuple[int, int]
    words: Tensor
    scales: Tensor
    zeros: Tensor | None
    device: Device
    choose: Choice = best_known
    calls: dict[Key, Call] = field(default_factory=dict)

    @property
    def dtype(self) -> DType:
        """What a code means."""
        return self.problem.b_dtype

    def times(
        self,
        a: Tensor,
        bias: Tensor | None = None,
        activation: str = "none",
        out: Tensor | None = None,
    ) -> Tensor:
        """The activation of `a` [M, K] times the weight plus `bias` [N]: [M, N], in `out` if that
        is given.

        The work is given to the current stream of the device; this returns at once.
        """
        device, (k, n) = self.device, self.shape
        if wrong := self.refusal("a", a, k):
            raise TilusError(wrong)
        rows: int = a.size(0)
        if bias is not None and (wrong := self.refusal("bias", bias, n, dims=1)):
            raise TilusError(wrong)
        if out is None:
            out = a.new_empty((rows, n))
        elif wrong := self.refusal("out", out, n, rows):
            raise TilusError(wrong)
        if device.current() != device.index:
            with device.selected():
                return self.times(a, bias, activation, out)
        if not hasattr(device.thread, "entered"):
            device.enter()
        stream = device.stream_of(device.index)
        call = self.calls.get((rows, stream, bias is not None, activation))
        if call is None:
            if rows == 0:
                return out
            call = self.prepared(rows, stream, bias is not None, activation)
        if bias is None:
            call(a.data_ptr(), out.data_ptr())
        else:
            call(a.data_ptr(), out.data_ptr(), (bias.data_ptr(),))
        return out

    def refusal(
        self, name: str, given: Tensor, columns: int, rows: int | None = None, dims: int = 2
    ) -> str | None:
        """What is wrong with an argument, if anything is."""
        device, of = self.device, self.problem.a_dtype.name
        if not isinstance(given, device.tensor):
            return (
                f"matmul: {name} is a {type(given).__name__} and the weight is on cuda:"
                f"{device.index}: want a tensor there, or for NumPy the weight that quantize gave"
            )
        if given.get_device() != device.index:
            return (
                f"matmul: {name} is on {given.device} and the weight on cuda:{device.index}: move"
                " one of them"
            )
        if given.dtype != device.elements[of]:
            return (
                f"matmul: {name} is {given.dtype} and the weight was placed for {of}: cast it, or"
                " name its type in w.to(device, dtype)"
            )
        fits = given.dim() == dims and given.size(-1) == columns
        if not fits or (rows is not None and given.size(0) != rows):
            k, n = self.shape
            return (
                f"matmul: {name} is {tuple(given.shape)} and the weight {self.shape}: want"
                f" a [M, {k}], bias [{n}] and out [M, {n}]; a.reshape(-1, {k}) has two dimensions"
            )
        if not given.is_contiguous():
            return (
                f"matmul: {name} {tuple(given.shape)} has strides {tuple(given.stride())}: want"
                f" whole rows one behind the other, as {name}.contiguous() has them"
            )
        if given.data_ptr() % ALIGNED:
            return (
                f"matmul: {name} begins at no multiple of {ALIGNED} bytes, inside of another"
                f" tensor: want {name}.clone()"
            )
        if given.requires_grad and device.grad_enabled():
            return (
                f"matmul: {name} requires a gradient, and there is none through a quantised"
                " product: call it under torch.no_grad()"
            )
        return None

    def prepared(self, m: int, stream: int, bias: bool, activation: str) -> Call:
        """The call for so many rows on the stream, from now on remembered.

        Whatever follows the sums, they are laid out alike.
        """
        (k, n), device = self.shape, self.device
        schedule = chosen(self.choose, device, self.problem, bucket(m), n, k)
        problem = replace(self.problem, bias=bias, activation=activation)
        plan = plan_of(problem, schedule, m, n, k, device.multiprocessors)
        shared = on_device(device)
        kernel, scratch = shared.kernel(plan.parameters), shared.scratch(stream, plan.launch)
        tensors = [self.words, self.scales, *([] if self.zeros is None else [self.zeros])]
        maps = built(plan.parameters, device.arch).source.maps
        numbers = [map_numbers(one, plan.sizes) for one in maps]
        call = Call(
            kernel.on(stream, plan.launch.grid),
            tuple(tensor.data_ptr() for tensor in tensors),
            (
                scratch.workspace.data_ptr(),
                scratch.counters.data_ptr(),
                *map(np.int32, plan.sizes.values()),
            ),
            lambda a: tuple(device.tensor_map(a, *each) for each in numbers),
        )
        if len(self.calls) >= MOST_CALLS:
            self.calls.clear()
        self.calls[m, stream, bias, activation] = call
        return call
