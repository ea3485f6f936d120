"""Layouts of shared memory: their laws by definition, bank conflicts by serving the banks."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilus.codegen import TextWriter
from tilus.dtypes import DType, f16, f32, u8, u32, uint
from tilus.errors import TilusError
from tilus.ir import Program, Shared, Swizzle
from tilus.isa.addressing import alignment, offset_of, width
from tilus.layout import Layout, column_spatial, local, reduce, replicate, spatial
from tilus.shared_layout import (
    SharedLayout,
    access_width,
    bank_conflicts,
    column_major,
    row_major,
)
from tilus.target import OLDEST
from tilus.target import target as target_of

LAWS = settings(deadline=None, derandomize=True, max_examples=60)


def offsets(a: SharedLayout) -> dict[tuple[int, ...], int]:
    """All a shared layout means."""
    return {index: a(index) for index in product(*map(range, a.shape))}


def test_orders_by_definition() -> None:
    for shape in [(), (1,), (6,), (2, 3), (3, 1, 4)]:
        rows = list(product(*map(range, shape)))
        assert offsets(row_major(*shape)) == {index: k for k, index in enumerate(rows)}
        columns = [index[::-1] for index in product(*map(range, shape[::-1]))]
        assert offsets(column_major(*shape)) == {index: k for k, index in enumerate(columns)}


def test_a_swizzle_is_an_xor_of_bits_of_the_offset() -> None:
    for index, offset in offsets(row_major(16, 64).swizzle(3, 6, 3)).items():
        plain = index[0] * 64 + index[1]
        assert offset == plain ^ ((plain >> 6) % 8 << 3)
    twice = row_major(8, 8).swizzle(1, 4, 0).swizzle(2, 0, 2)  # the second reads the first's bits
    for index, offset in offsets(twice).items():
        once = (index[0] * 8 + index[1]) ^ ((index[0] * 8 + index[1]) >> 4) % 2
        assert offset == once ^ (once % 4) << 2


@st.composite
def shared_layouts(draw, rank: int) -> SharedLayout:
    shape = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=rank, max_size=rank))
    a = draw(st.sampled_from([row_major, column_major]))(*shape)
    for _ in range(draw(st.integers(0, 2))):
        try:
            a = a.swizzle(*(draw(st.integers(0, 4)) for _ in range(3)))
        except TilusError:
            continue
    return a


PAIRS = st.integers(1, 3).flatmap(lambda r: st.tuples(shared_layouts(r), shared_layouts(r)))


@LAWS
@given(PAIRS)
def test_every_offset_is_taken_once(pair) -> None:
    assert sorted(offsets(pair[0]).values()) == list(range(prod(pair[0].shape)))


@LAWS
@given(PAIRS)
def test_product_replaces_each_element_by_a_copy(pair) -> None:
    a, b = pair
    h = a * b
    for index, offset in offsets(h).items():
        outer = tuple(i // n for i, n in zip(index, b.shape, strict=True))
        inner = tuple(i % n for i, n in zip(index, b.shape, strict=True))
        assert offset == a(outer) * prod(b.shape) + b(inner)


def test_wrong_shared_layouts_are_refused_with_a_sentence() -> None:
    with pytest.raises(TilusError, match=r"swizzle\(3, 3, 3\) of 1024 elements: some share"):
        row_major(16, 64).swizzle(3, 3, 3)
    with pytest.raises(TilusError, match="leave the tensor"):
        row_major(3, 8).swizzle(1, 0, 3)
    with pytest.raises(TilusError, match="counted from 0 up"):
        row_major(4, 4).swizzle(1, 2, -1)
    with pytest.raises(TilusError, match="6 is no power of two: multiply first"):
        row_major(4, 4).swizzle(1, 2, 0) * row_major(2, 3)
    with pytest.raises(TilusError, match=r"has rank 2 and .* has rank 1"):
        row_major(4, 4) * row_major(2)
    with pytest.raises(TilusError, match="does not fit into a tensor"):
        bank_conflicts(row_major(4, 4), spatial(8, 4), f16)
    with pytest.raises(TilusError, match="uint4 has no byte address"):
        bank_conflicts(row_major(8, 4), spatial(8, 4), uint(4))


def served(shared: SharedLayout, held: Layout, dtype: DType, step: int) -> list[tuple[int, int]]:
    """(turns, words) of each access of each warp, by handing out words turn by turn."""
    told, bytes = [], dtype.bits // 8
    lead = (0,) * (len(shared.shape) - held.rank)
    lanes_at_once = {8: 16, 16: 8}.get(step * bytes, 32)
    for warp in range(0, held.threads, 32):
        for register in range(0, held.registers, step):
            turns = fewest = 0
            for first in range(0, 32, lanes_at_once):
                threads = range(warp + first, min(warp + first + lanes_at_once, held.threads))
                pending = {
                    (shared(lead + held(t, r)) * bytes + byte) // 4
                    for t in threads
                    for r in range(register, register + step)
                    for byte in range(bytes)
                }
                fewest += -(-len(pending) // 32)
                while pending:
                    turns += 1
                    pending -= set({word % 32: word for word in pending}.values())
            told.append((turns, fewest))
    return told


LAYOUTS = (
    spatial(32, 1), spatial(1, 32), spatial(8, 4) * local(1, 2), spatial(8, 4) * local(2, 4),
    spatial(16, 2) * local(1, 8), local(2, 1) * spatial(8, 4) * local(1, 4), column_spatial(4, 8),
    column_spatial(16, 2) * local(2, 16), reduce(spatial(8, 4) * local(2, 2), (1,)),
    spatial(4, 2) * local(1, 8), replicate(2, 2) * spatial(8, 4) * local(1, 4),
    spatial(2, 2) * spatial(8, 4) * local(2, 2), spatial(2, 4), local(1, 3) * spatial(16, 2),
)  # fmt: skip
TENSORS = (
    row_major(32, 64), row_major(32, 72), row_major(32, 64).swizzle(3, 6, 3), column_major(32, 64),
    column_major(32, 64).swizzle(2, 5, 3), row_major(4, 8) * row_major(8, 8),
    row_major(2, 32, 64).swizzle(2, 6, 2), row_major(4, 8) * column_major(8, 8).swizzle(1, 3, 2),
    row_major(32, 66),
)  # fmt: skip


@pytest.mark.parametrize("dtype", [u8, f16, f32], ids=str)
@pytest.mark.parametrize("shared", TENSORS, ids=range(len(TENSORS)))
def test_bank_conflicts_are_those_of_handing_out_words(shared: SharedLayout, dtype: DType) -> None:
    for held in LAYOUTS:
        found = bank_conflicts(shared, held, dtype)
        step = access_width(shared, held, dtype)
        assert [(a.wavefronts, a.least) for a in found] == served(shared, held, dtype, step)
        assert [(a.warp, a.register) for a in found] == [
            (warp, register)
            for warp in range(-(-held.threads // 32))
            for register in range(0, held.registers, step)
        ]
        assert {a.registers for a in found} == {step}


def turns(shared: SharedLayout, held: Layout, dtype: DType) -> tuple[int, int]:
    found = bank_conflicts(shared, held, dtype)
    return sum(a.wavefronts for a in found), sum(a.least for a in found)


def test_what_everybody_knows_of_banks() -> None:
    column, row = spatial(32, 1), spatial(1, 32)
    assert turns(row_major(32, 32), row, f32) == (1, 1)
    assert turns(row_major(32, 32), column, f32) == (32, 1)
    assert turns(row_major(32, 33), column, f32) == (1, 1)  # a padded row
    assert turns(row_major(32, 32).swizzle(5, 5, 0), column, f32) == (1, 1)
    assert turns(row_major(32, 32), column, f16) == (16, 1)  # two lanes want one word
    assert turns(row_major(1, 32), row, u8) == (1, 1)  # four do
    assert turns(row_major(1, 1), replicate(32, 2), f32) == (1, 1)  # all do
    assert turns(row_major(1, 64), spatial(1, 32) * local(1, 2), f32) == (2, 2)
    assert turns(row_major(1, 128), spatial(1, 32) * local(1, 4), f32) == (4, 4)
    matrix = spatial(8, 1) * local(1, 8)  # the eight rows that a load_matrix fetches at once
    assert turns(row_major(8, 64), matrix, f16) == (8, 1)
    assert turns(row_major(8, 64).swizzle(3, 6, 3), matrix, f16) == (1, 1)


@LAWS
@given(st.sampled_from(LAYOUTS), st.sampled_from([u8, f16, f32, u32]),
       st.sampled_from([(32, 64), (32, 72), (32, 66), (2, 32, 64), (40, 80)]),
       st.sampled_from([(0, 0, 0), (3, 6, 3), (2, 6, 2), (1, 4, 0)]))  # fmt: skip
def test_the_code_generator_takes_the_same_width_and_offsets(held, dtype, shape, swizzle) -> None:
    try:
        shared = row_major(*shape).swizzle(*swizzle)
    except TilusError:
        return
    tensor = Shared("s", dtype, shape, Swizzle(*swizzle))
    cu = TextWriter(Program("p", (), (1, 1, 1), 32, ()), target_of(OLDEST.name))
    of = alignment(tensor, (0,) * len(shape), frozenset(), cu)
    assert access_width(shared, held, dtype) == width(held, tensor, of)
    rng = np.random.default_rng(0)
    for index in rng.integers(0, shape, (8, len(shape))).tolist():
        spelled = offset_of(tensor, tuple(index), cu)
        assert spelled == f"{shared(index)}u"
