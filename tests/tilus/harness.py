"""One instruction alone in a kernel: bring its operands, perform it, bring out what it changed."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilus.dtypes import DType, i32, u8, u64
from tilus.ir import (
    Do,
    Global,
    Integer,
    Pointer,
    Program,
    Register,
    Scalar,
    Shared,
    Tensor,
    Var,
)
from tilus.isa import Inst
from tilus.isa.addressing import bytes_of
from tilus.isa.registers import to_bits
from tilus.lang import Tracer
from tilus.layout import Layout, local, spatial

SPACE = 4096  # elements behind a global operand's pointer
WIDE = 64  # more threads than one warp: what a layout has no use for must keep out


@dataclass(frozen=True)
class Case:
    """A program and the arrays that it is given; `names` of those that it may write."""

    program: Program
    arguments: dict[str, Any]
    names: tuple[str, ...]


def threads_of(inst: Inst) -> int:
    """As many threads as the registers spread over, in whole warps, or two where there are none."""
    layouts = [v for v in vars(inst).values() if isinstance(v, Layout)]
    layouts += [t.layout for t in inst.operands if isinstance(t, Register)]
    threads, unit = (
        max([layout.threads for layout in layouts], default=WIDE),
        max(32, inst.together),
    )
    return -(-threads // unit) * unit


def case_of(inst: Inst, rng: np.random.Generator) -> Case:
    """`inst` in a kernel of one block, with random operands."""
    t, arguments, dumped = Tracer(), {}, []
    threads = threads_of(inst)
    t._counts = {"r": 100, "s": 100, "g": 100, "v": 100}  # the sample's own names come first
    parameters: list[Pointer | Integer] = []

    def pointer(name: str, dtype: DType, array: np.ndarray) -> Var:
        parameters.append(Pointer(name, dtype))
        arguments[name] = array
        return Var(name)

    mixed = len({tensor.dtype for tensor in inst.operands}) > 1
    for k, tensor in enumerate(dict.fromkeys(inst.operands)):
        match tensor:
            case Register():
                bring_register(t, tensor, pointer(f"in{k}_", u8, held_bytes(tensor, mixed, rng)))
            case Shared(dtype=dtype) if dtype == u64:
                rename(t, t.allocate_barriers(*tensor.shape), tensor)
                t.init_barriers(tensor, 3)
            case Shared():
                array = stored(tensor.dtype, int(np.prod(tensor.shape)), rng)
                bring_shared(t, tensor, pointer(f"in{k}_", tensor.dtype, array))
                dumped.append(tensor)
            case Global():
                dtype = tensor.dtype
                array = stored(dtype, SPACE, rng)
                source = pointer(tensor.pointer + "_", dtype, array)
                view = type(tensor)("", dtype, tensor.shape, tensor.strides, source.name)
                inst = with_operand(inst, tensor, name_global(t, view, source))
    out = inst.result()
    if inst.needs[0].startswith("sm_90"):  # its engines shall see what threads wrote
        t.fence_async()
        t.synchronize()
    out = t.perform(inst)
    if isinstance(out, Shared):
        dumped.append(out)
    for awaited in inst.completion():
        t.perform(awaited)
    t.synchronize()
    if isinstance(out, Shared):
        dumped.append(out)
    for k, tensor in enumerate([out, *inst.operands]):
        if isinstance(tensor, Register):
            array = np.zeros(tensor.layout.threads * -(-tensor.bits_held // 8), np.uint8)
            take_register(t, tensor, pointer(f"out{k}_", u8, array))
    for k, shared in enumerate(dumped):
        array = np.zeros(bytes_of(shared), np.uint8).view(shared.dtype.carrier)
        take_shared(t, shared, pointer(f"dump{k}_", shared.dtype, array))
    if isinstance(out, Var):
        array = np.zeros(4, np.int32)
        take_scalar(t, out, pointer("scalar", i32, array))
    program = Program(inst.name, tuple(parameters), (1, 1, 1), threads, t.finish())
    return Case(program, arguments, tuple(arguments))


def with_operand(inst: Inst, old: Tensor, new: Tensor) -> Inst:
    fields = {k: new if v is old or v == old else v for k, v in vars(inst).items()}
    return type(inst)(**fields)


def name_global(t: Tracer, view: Global, source: Var) -> Global:
    named: Global = t.view_global(source, view.dtype, view.shape, view.strides)
    return named


def random_values(
    dtype: DType, count: int, rng: np.random.Generator, mixed: bool = False
) -> np.ndarray:
    """Small numbers: sums and products of them stay finite and nearly exact.

    Floats of up to 8 bits are all codes, unless they are `mixed` with numbers of other types.
    """
    if dtype.kind == "float" and (dtype.bits > 8 or mixed):
        return dtype.carry(rng.integers(-8, 9, count) / 4)
    if dtype.bits <= 8:  # all codes, as far as there is room
        return rng.permutation(np.arange(count) % (1 << dtype.bits)).astype(dtype.carrier)
    sizes = rng.integers(0, 1 << dtype.bits, count) >> rng.integers(0, dtype.bits, count)
    signs = rng.choice([1, -1] if dtype.kind == "int" else [1], count)
    return (sizes * signs).astype(dtype.carrier)  # of every order of magnitude


def stored(dtype: DType, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random values as they lie in memory."""
    values = random_values(dtype, count, rng)
    return dtype.pack(values) if dtype.bits < 8 else values


def byte_layout(tensor: Register) -> Layout:
    """The tile's bits as bytes: [threads, bytes a thread]."""
    assert tensor.bits_held % 8 == 0, f"{tensor} holds no whole bytes"
    return spatial(tensor.layout.threads, 1) * local(1, tensor.bits_held // 8)


def held_bytes(tensor: Register, mixed: bool, rng: np.random.Generator) -> np.ndarray:
    """The bytes that each thread holds of a random tile; copies of an element agree."""
    count = int(np.prod(tensor.shape))
    tile = random_values(tensor.dtype, count, rng, mixed).reshape(tensor.shape)
    bits = to_bits(tile, tensor.dtype, tensor.layout)
    return np.packbits(bits, axis=1, bitorder="little").ravel()


def bring_register(t: Tracer, tensor: Register, source: Var) -> None:
    layout = byte_layout(tensor)
    raw = t.load_global(
        t.view_global(source, u8, layout.shape, (layout.shape[1], 1)), (0, 0), layout
    )
    view = t.view(raw, tensor.dtype, tensor.layout)
    held = t.allocate_register(tensor.dtype, tensor.layout)
    rename(t, held, tensor)
    t.assign(tensor, view)


def rename(t: Tracer, old: Tensor, new: Tensor) -> None:
    """Let the last statement return `new`."""
    last = t._bodies[-1].pop()
    assert isinstance(last, Do) and last.out == old
    t._bodies[-1].append(Do(last.instruction, new))


def bring_shared(t: Tracer, tensor: Shared, source: Var) -> None:
    held = t.allocate_shared(tensor.dtype, tensor.shape, tensor.swizzle)
    rename(t, held, tensor)
    flat, whole = one_by_one(t, tensor)
    (count,) = flat.shape
    for k in t.range(0, count):  # one element at a time: no layout to trust
        value = t.load_global(t.view_global(source, flat.dtype, (count,), (1,)), (k,), local(1))
        t.store_shared(whole, value, unraveled(k, whole.shape))
    t.synchronize()


def one_by_one(t: Tracer, tensor: Shared) -> tuple[Shared, Shared]:
    """The tensor as one that threads can write element by element, and that in a row."""
    if tensor.dtype.bits >= 8:
        return replace(tensor, shape=(int(np.prod(tensor.shape)),)), tensor
    bytes = t.view_shared(tensor, u8, (bytes_of(tensor),))
    return bytes, bytes


def take_register(t: Tracer, tensor: Register, target: Var) -> None:
    layout = byte_layout(tensor)
    raw = t.view(tensor, u8, layout)
    t.store_global(t.view_global(target, u8, layout.shape, (layout.shape[1], 1)), raw, (0, 0))


def take_shared(t: Tracer, tensor: Shared, target: Var) -> None:
    flat, whole = one_by_one(t, tensor)
    (count,) = flat.shape
    for k in t.range(0, count):
        value = t.load_shared(whole, unraveled(k, whole.shape), local(1))
        t.store_global(t.view_global(target, flat.dtype, (count,), (1,)), value, (k,))


def unraveled(k: Scalar, shape: tuple[int, ...]) -> tuple[Scalar, ...]:
    """The index of element k of a row-major tensor."""
    index: list[Scalar] = []
    for extent in reversed(shape):
        index.insert(0, k % extent)
        k = k // extent
    return tuple(index)


def take_scalar(t: Tracer, scalar: Var, target: Var) -> None:
    """Bring out a scalar: element i of the target becomes 1 where the scalar has bit i."""
    for bit in range(4):
        with t.when(scalar // (1 << bit) % 2):
            one = t.allocate_register(i32, local(1), 1)
            t.store_global(t.view_global(target, i32, (4,), (1,)), one, (bit,))
