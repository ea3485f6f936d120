"""What a quantised matmul computes: its types and promises, and random cases of it in float64."""

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from tilus.dtypes import DType, bf16, dtype, f16
from tilus.errors import TilusError
from tilus.kernels import activations

# the largest multiples that are promised of k and n, where they are; 7 is in many models' sizes
K_MULTIPLE, N_MULTIPLE = 1024, 7 * 512


@dataclass(frozen=True)
class Problem:
    """What is computed: types, groups, promises about run-time sizes, and what follows the sums.

    C = activation(A @ weight + bias), in float32 but for one rounding in the end.
    """

    a_dtype: DType  # of A, scales, zeros and C
    b_dtype: DType
    group_size: int  # along k; -1 for one group
    zeros: bool
    k_multiple: int  # divides every k that the kernel is called with
    n_multiple: int  # likewise n
    bias: bool = False  # a number for each column, in A's type
    activation: str = "none"  # one of `tilus.kernels.activations`

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of `program` that say this: of what follows the sums, only what there is."""
        follows: dict[str, Any] = {"bias": True} if self.bias else {}
        if self.activation != "none":
            follows["activation"] = self.activation
        return {
            "b_dtype": self.b_dtype.name, "group_size": self.group_size, "zeros": self.zeros,
            "a_dtype": self.a_dtype.name, "k_multiple": self.k_multiple,
            "n_multiple": self.n_multiple, **follows,
        }  # fmt: skip


def checked_problem(
    b_dtype: str,
    group_size: int,
    zeros: bool,
    a_dtype: str,
    k_multiple: int,
    n_multiple: int,
    bias: bool = False,
    activation: str = "none",
) -> Problem:
    """The problem, or a sentence why there is no kernel for it."""
    weight = dtype(b_dtype)
    of_a = dtype(a_dtype)
    if of_a not in (f16, bf16):
        raise TilusError(f"quantized_matmul takes A in float16 or bfloat16, not {of_a}: cast it")
    if weight.bits > 8:
        raise TilusError(f"quantized_matmul takes weights of 1 to 8 bits, not {weight}")
    if group_size != -1 and (group_size < 16 or group_size % 16):
        raise TilusError(
            f"group size {group_size}: the kernel takes -1 (one group) and multiples of 16"
        )
    if group_size != -1 and k_multiple % 16:
        raise TilusError(f"groups of {group_size} divide k, so k_multiple cannot be {k_multiple}")
    if zeros and weight.kind == "float":
        raise TilusError(f"zero points are for integers, not for {weight}: leave them out")
    activations.named(activation)
    return Problem(of_a, weight, group_size, zeros, k_multiple, n_multiple, bool(bias), activation)


def problem_of(parameters: dict[str, Any]) -> Problem:
    """The problem among the parameters of `program`."""
    own = {"b_dtype": "uint4", "group_size": 128, "zeros": False, "a_dtype": "float16",
           "k_multiple": 64, "n_multiple": 64, "bias": False, "activation": "none"}  # fmt: skip
    return checked_problem(**{name: parameters.get(name, v) for name, v in own.items()})


def problem_for(
    b_dtype: str, group_size: int, zeros: bool, a_dtype: str, n: int, k: int
) -> Problem:
    """The problem of a weight [k, n], with all that can be promised of its sizes."""
    multiples = gcd(k, K_MULTIPLE), gcd(n, N_MULTIPLE)
    return checked_problem(b_dtype, group_size, zeros, a_dtype, *multiples)


def relative_error(out: np.ndarray, reference: np.ndarray) -> float:
    """norm(out - reference) / norm(reference), in float64; NaN anywhere gives NaN."""
    wide = out.astype(np.float64)
    return float(np.linalg.norm(wide - reference) / np.linalg.norm(reference))


@dataclass(frozen=True)
class Case:
    """Random operands: a [m, k], codes [k, n], scales and zeros [k/g, n], bias [n], as they are
    carried."""

    a: np.ndarray
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    bias: np.ndarray

    def reference(self, problem: Problem) -> np.ndarray:
        """The result in float64."""
        k = self.codes.shape[0]
        group = np.arange(k) // (problem.group_size if problem.group_size != -1 else k)
        values = problem.b_dtype.decode(self.codes)
        if problem.zeros:
            values = values - self.numbers(problem, self.zeros)[group]
        weight = values * self.numbers(problem, self.scales)[group]
        product: np.ndarray = self.numbers(problem, self.a) @ weight
        if problem.bias:
            product = product + self.numbers(problem, self.bias)
        return activations.named(problem.activation).meaning(product)

    def numbers(self, problem: Problem, carried: np.ndarray) -> np.ndarray:
        """Elements of A's type in float64."""
        return problem.a_dtype.values(carried).astype(np.float64)


def random_case(problem: Problem, m: int, n: int, k: int, rng: np.random.Generator) -> Case:
    """Operands: all codes alike that are finite in A's type; zeros that are not only integers."""
    carry = problem.a_dtype.carry
    everything = np.arange(1 << problem.b_dtype.bits, dtype=np.uint8)
    numbers = problem.b_dtype.decode(everything)
    finite = everything[np.abs(numbers) <= problem.a_dtype.max]
    groups = k // problem.group_size if problem.group_size != -1 else 1
    span = np.ptp(numbers[finite])
    zeros = numbers[finite].min() + span * rng.random((groups, n))
    return Case(
        carry(rng.standard_normal((m, k))),
        rng.choice(finite, (k, n)),
        carry((rng.random((groups, n)) + 0.5) / span),
        carry(zeros.clip(f16.min, f16.max)),
        carry(rng.standard_normal(n)),
    )
