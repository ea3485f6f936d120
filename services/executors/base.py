"""What every executor answers: what it takes, which kernels it tries, how it runs them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol, TypeVar

from services.messages import KernelSpec, Parameter, Workload

if TYPE_CHECKING:
    from torch import Tensor

F16 = 2
F32 = 4
# what a kernel is told of the problem; every other parameter is its schedule
PROBLEM_PARAMETERS = frozenset(
    ("a_dtype", "b_dtype", "group_size", "zeros", "k_multiple", "n_multiple")
)

T = TypeVar("T")
Launch = Callable[[int], None]


class ExecutorError(Exception):
    """An executor cannot do what it was asked; the text says what is missing."""


@dataclass(frozen=True)
class Built:
    """A compiled kernel: its files, what a launch needs to know, and who took part."""

    files: Mapping[str, bytes]
    facts: dict[str, Parameter | float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def load(self) -> tuple[bytes, str, int, int]:
        """The cubin, its entry, the threads of a block and the bytes of shared memory."""
        facts = self.facts
        return (
            self.files["kernel.cubin"],
            str(facts["entry"]),
            int(facts["threads"]),
            int(facts["shared_bytes"]),
        )


@dataclass(frozen=True)
class CpuCheck:
    """A kernel's own text, run on the CPU against float64 on a small problem."""

    relative_error: float
    seconds: float
    m: int
    n: int
    k: int


@dataclass(frozen=True)
class Problem:
    """The tensors of one job: a weight, and for each slot an activation and an output.

    `codes` [k, n] are unsigned 8-bit numbers, `scales` and `zeros` [k / group_size, n] are f16;
    a weight that is not quantised is `weight` [k, n] in f16 instead. `activations` [slots, m, k]
    and `outputs` [slots, m, n] are f16. `versions` is what an executor says took part, by package.
    """

    workload: Workload
    multiprocessors: int
    slots: int
    activations: "Tensor"
    outputs: "Tensor"
    codes: "Tensor | None" = None
    scales: "Tensor | None" = None
    zeros: "Tensor | None" = None
    weight: "Tensor | None" = None
    versions: dict[str, str] = field(default_factory=dict)
    _made: dict[str, object] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """`make()`, called once for each `name` and remembered."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]  # type: ignore[return-value]


class Executor(Protocol):
    """One way to run a workload; everything about it stands in one module."""

    @property
    def name(self) -> str:
        """The name that cells and records use."""

    def absence(self) -> str | None:
        """Why nothing can be compiled here, so that the store must have it; None if it can."""

    def refusal(self, workload: Workload) -> str | None:
        """Why this workload cannot be run; None if it can."""

    def candidates(self, workload: Workload, arch: str) -> list[KernelSpec]:
        """The kernels to try, best guess first; none for a library call."""

    def key(self, spec: KernelSpec) -> str:
        """SHA-256 of all that decides the bytes of the kernel."""

    def build(self, spec: KernelSpec) -> Built:
        """Compile on a CPU; deterministic."""

    def check(self, spec: KernelSpec) -> CpuCheck | None:
        """Run the kernel's text on a CPU; None where there is no such thing."""

    def prepare(self, problem: Problem, spec: KernelSpec | None, built: Built | None) -> Launch:
        """Store the inputs as the kernel wants them; the call fills the output of a slot."""


def problem_bytes(workload: Workload, bits: int) -> int:
    """The bytes that must move: packed weight, scales, zeros, activation, output."""
    m, n, k = workload.m, workload.n, workload.k
    weight = math.ceil(k * n * bits / 8)
    if workload.b_dtype == workload.a_dtype:
        return weight + F16 * (m * k + m * n)
    groups = group_count(workload)
    return weight + F16 * (groups * n * (1 + workload.zeros) + m * k + m * n)


def group_count(workload: Workload) -> int:
    """How many groups of rows share a scale."""
    return 1 if workload.group_size == -1 else workload.k // workload.group_size


def group_refusal(workload: Workload) -> str | None:
    """Why the group size does not fit the weight; None if it does."""
    size, k = workload.group_size, workload.k
    if size == -1 or (size > 0 and k % size == 0):
        return None
    return f"a group size of {size} does not divide k = {k}: take -1 or a divisor"


def schedule(spec: KernelSpec) -> dict[str, Parameter]:
    """The part of the parameters that tuning chose."""
    return {
        name: value for name, value in spec.parameters.items() if name not in PROBLEM_PARAMETERS
    }


def problem_parameters(spec: KernelSpec) -> dict[str, Parameter]:
    """The part of the parameters that states the problem."""
    return {name: value for name, value in spec.parameters.items() if name in PROBLEM_PARAMETERS}


@cache
def installed(package: str) -> str | None:
    """The version of a package that is here, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
