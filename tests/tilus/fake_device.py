"""A device whose kernels run on this processor, and tensors that are NumPy arrays.

It says yes to what PyTorch would say yes to, and counts what it is asked.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import Any

import numpy as np

from tilus import codegen
from tilus.compiler import Loadable
from tilus.dtypes import dtype
from tilus.ir import Integer
from tilus.runtime import host


class FakeTensor:
    """What a call asks of a tensor."""

    requires_grad = False

    def __init__(self, device: "FakeDevice", array: np.ndarray, of: str) -> None:
        self.owner, self.array, self.dtype = device, array, of
        device.arrays[self.data_ptr()] = array

    @property
    def device(self) -> str:
        return f"cuda:{self.get_device()}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def get_device(self) -> int:
        return self.owner.index

    def dim(self) -> int:
        return self.array.ndim

    def size(self, dim: int) -> int:
        return self.array.shape[dim]

    def numel(self) -> int:
        return self.array.size

    def stride(self) -> tuple[int, ...]:
        return tuple(stride // self.array.itemsize for stride in self.array.strides)

    def is_contiguous(self) -> bool:
        return self.array.flags.c_contiguous

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def new_empty(self, shape: tuple[int, ...]) -> "FakeTensor":
        return FakeTensor(self.owner, np.full(shape, -1).astype(self.array.dtype), self.dtype)


class FakeDevice:
    """A GPU that is none."""

    def __init__(self, arch: str = "sm_90a", multiprocessors: int = 5, index: int = 1) -> None:
        self.arch, self.multiprocessors, self.index = arch, multiprocessors, index
        self.name, self.tensor = "No GPU", FakeTensor
        self.elements = {"float16": "half", "bfloat16": "bfloat"}
        self.handle, self.is_current, self.is_capturing, self.grads = 7, True, False, False
        self.thread = local()
        self.arrays: dict[int, np.ndarray] = {}
        self.made: dict[bytes, Loadable] = {}
        self.asked: Counter[str] = Counter()

    def grad_enabled(self) -> bool:
        return self.grads

    def capturing(self) -> bool:
        return self.is_capturing

    def current(self) -> int:
        return self.index if self.is_current else self.index + 1

    def stream_of(self, index: int) -> int:
        assert index == self.index and self.is_current
        return self.handle

    def enter(self) -> None:
        assert self.is_current
        self.asked["enter"] += 1
        self.thread.entered = True

    @contextmanager
    def selected(self) -> Iterator[None]:
        self.is_current = True
        yield
        self.is_current = False

    def place(self, array: np.ndarray, element: str | None = None) -> FakeTensor:
        self.asked["place"] += 1
        if element is not None:
            array = dtype(element).carry(array)
        return FakeTensor(self, array, self.elements.get(element or "", "words"))

    def garbage(self, elements: int) -> FakeTensor:
        assert not self.is_capturing
        self.asked["garbage"] += 1
        return FakeTensor(self, np.full(elements, np.nan, np.float32), "float")

    def zeros(self, elements: int) -> FakeTensor:
        assert not self.is_capturing
        self.asked["zeros"] += 1
        return FakeTensor(self, np.zeros(elements, np.int32), "int")

    def settle(self) -> None:
        assert not self.is_capturing
        self.asked["settle"] += 1

    def load(self, cubin: bytes, entry: str, threads: int, shared_bytes: int) -> "FakeKernel":
        assert not self.is_capturing
        self.asked["load"] += 1
        made = self.made[cubin]
        source = made.source
        assert (source.entry, source.threads, source.shared_bytes) == (entry, threads, shared_bytes)
        return FakeKernel(self, made)

    def tensor_map(self, address: int, *numbers: Any) -> object:
        self.asked["tensor_map"] += 1
        return address, numbers

    def activations(self, numbers: np.ndarray, of: str = "float16") -> FakeTensor:
        return FakeTensor(self, dtype(of).carry(numbers), self.elements[of])


class FakeKernel:
    """A program that is run on the processor where it would be launched."""

    def __init__(self, device: FakeDevice, made: Loadable) -> None:
        self.device, self.made = device, made
        self.launches: list[tuple[int, tuple[int, int, int]]] = []

    def on(self, stream: int, grid: tuple[int, int, int]) -> Callable[..., None]:
        def launch(*given: Any) -> None:
            assert self.device.is_current and self.device.thread.entered
            self.launches.append((stream, grid))
            program, source = self.made.program, self.made.source
            own, maps = given[: len(program.parameters)], given[len(program.parameters) :]
            named = dict(zip((p.name for p in program.parameters), own, strict=True))
            want = tuple(
                (named[m.pointer], tuple(codegen.map_numbers(m, named))) for m in source.maps
            )
            assert maps == want
            arguments = [
                int(value) if isinstance(p, Integer) else self.device.arrays[value]
                for p, value in zip(program.parameters, own, strict=True)
            ]
            library = host.build(source.text + codegen.host_entry(program, source))
            host.run(library, program.name, arguments, grid)

        return launch
