"""The laws of layouts, each checked against its definition by going through every element."""

import doctest
from collections import defaultdict
from itertools import permutations, product
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilus.errors import TilusError
from tilus.layout import (
    Layout,
    column_local,
    column_spatial,
    contiguous,
    grid,
    layout,
    local,
    owner,
    permute_registers,
    reduce,
    replicate,
    spatial,
)

settings.register_profile("laws", deadline=None, derandomize=True)
settings.load_profile("laws")

# PTX ISA, matrix fragments of mma.m16n8k16 with 16-bit elements
ACCUMULATOR = local(2, 1) * spatial(8, 4) * local(1, 2)
LEFT = column_local(2, 2) * spatial(8, 4) * local(1, 2)
RIGHT = local(2, 1) * column_spatial(4, 8) * local(2, 1)


def function(a: Layout) -> list[list[tuple[int, ...]]]:
    """All a layout means: the index that each thread holds in each register."""
    return [[a(t, i) for i in range(a.registers)] for t in range(a.threads)]


def meaning(a: Layout):
    return a.shape, function(a)


@st.composite
def layouts(draw, rank, threads=32, registers=32, replicas=True):
    """Any layout of some size: digits dealt out to dimensions, threads and registers."""
    strides = [1] * rank
    modes: tuple[list, list] = ([], [])
    limits = [threads, registers]
    for _ in range(draw(st.integers(0, 5))):
        size = draw(st.integers(1, 4))
        side = draw(st.integers(0, 1))
        if limits[side] < size:
            continue
        limits[side] //= size
        dim = draw(st.integers(-1 if replicas and side == 0 else 0, rank - 1))
        modes[side].append((size, dim, strides[dim] if dim >= 0 else 0))
        if dim >= 0:
            strides[dim] *= size
    return layout(strides, *(draw(st.permutations(side)) for side in modes))


def ranks(count):
    """`count` layouts of one rank."""
    small = {"threads": 8, "registers": 8}
    return st.integers(1, 3).flatmap(lambda r: st.tuples(*[layouts(r, **small)] * count))


ANY = st.integers(1, 3).flatmap(layouts)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (4, 1, 3), (2, 3, 4, 2)])
def test_constructors_number_elements_in_order(shape):
    rows = list(product(*map(range, shape)))
    columns = [index[::-1] for index in product(*map(range, shape[::-1]))]
    assert function(local(*shape)) == [rows]
    assert function(column_local(*shape)) == [columns]
    assert function(spatial(*shape)) == [[index] for index in rows]
    assert function(column_spatial(*shape)) == [[index] for index in columns]
    for constructor in (local, spatial, column_local, column_spatial):
        assert constructor(*shape).shape == shape
        assert constructor(*shape).rank == len(shape)


def test_replicas_hold_the_same_element():
    assert meaning(replicate(4, 2)) == ((1, 1), [[(0, 0)]] * 4)
    assert replicate(4, 2).replicas == 4


@pytest.mark.parametrize(
    ("fragment", "shape", "thread", "elements"),
    [
        (ACCUMULATOR, (16, 8), 0, [(0, 0), (0, 1), (8, 0), (8, 1)]),
        (ACCUMULATOR, (16, 8), 5, [(1, 2), (1, 3), (9, 2), (9, 3)]),
        (LEFT, (16, 16), 0, [(0, 0), (0, 1), (8, 0), (8, 1), (0, 8), (0, 9), (8, 8), (8, 9)]),
        (LEFT, (16, 16), 4, [(1, 0), (1, 1), (9, 0), (9, 1), (1, 8), (1, 9), (9, 8), (9, 9)]),
        (RIGHT, (16, 8), 0, [(0, 0), (1, 0), (8, 0), (9, 0)]),
        (RIGHT, (16, 8), 4, [(0, 1), (1, 1), (8, 1), (9, 1)]),
    ],
)
def test_matrix_fragments(fragment, shape, thread, elements):
    assert (fragment.shape, fragment.threads) == (shape, 32)
    assert function(fragment)[thread] == elements


@given(ANY)
def test_every_element_is_held_by_as_many_threads_as_there_are_replicas(a):
    holders = defaultdict(int)
    for thread in function(a):
        for index in thread:
            holders[index] += 1
    assert dict(holders) == dict.fromkeys(product(*map(range, a.shape)), a.replicas)


@given(ranks(2))
def test_product_replaces_each_element_by_a_copy(pair):
    f, g = pair
    h = f * g
    assert h.shape == tuple(a * b for a, b in zip(f.shape, g.shape, strict=True))
    assert (h.threads, h.registers) == (f.threads * g.threads, f.registers * g.registers)
    for t, i in product(range(h.threads), range(h.registers)):
        outer = f(t // g.threads, i // g.registers)
        inner = g(t % g.threads, i % g.registers)
        expected = zip(outer, g.shape, inner, strict=True)
        assert h(t, i) == tuple(a * n + b for a, n, b in expected)


@given(ranks(3))
def test_product_is_associative_with_an_identity(triple):
    f, g, h = triple
    one = local(*[1] * f.rank)
    assert (f * g) * h == f * (g * h)
    assert f * one == one * f == f


@given(ranks(2))
def test_division_undoes_the_product(pair):
    f, g = pair
    assert (f * g) / g == f


@given(ranks(2))
def test_division_finds_a_factor_or_there_is_none(pair):
    h, g = pair
    try:
        f = h / g
    except TilusError:
        return
    assert f * g == h


def test_division_cuts_through_a_mode():
    assert local(12) / local(3) == local(4)
    assert spatial(8, 8) / spatial(1, 4) == spatial(8, 2)


@pytest.mark.parametrize(
    ("h", "g"),
    [
        (local(2, 3), local(2, 1)),
        (local(6), local(4)),
        (local(6), spatial(2)),
        (spatial(8, 4), column_spatial(2, 2)),
        (spatial(2) * local(2), spatial(4)),
        (local(2), local(4)),
        (LEFT, local(2, 1)),
        (spatial(4), replicate(2, 1)),
    ],
)
def test_what_does_not_divide_is_told_both(h, g):
    with pytest.raises(TilusError) as error:
        h / g
    assert f"{h} is not the product of a layout and {g}" in str(error.value)


def test_ranks_must_agree():
    with pytest.raises(TilusError, match=r"product: .* has rank 2 and .* has rank 1"):
        local(2, 3) * local(2)
    with pytest.raises(TilusError, match=r"division: .* has rank 1 and .* has rank 2"):
        local(2) / local(2, 3)


def small_layouts():
    """Layouts of 12 elements in one and two dimensions, many of them spelled in several ways."""
    for sizes in [(12,), (2, 6), (6, 2), (3, 4), (4, 3), (2, 2, 3), (2, 3, 2), (3, 2, 2)]:
        for split in range(len(sizes) + 1):
            for order in permutations(range(len(sizes))):
                strides = [prod(sizes[k + 1 :]) for k in range(len(sizes))]
                modes = [(sizes[k], 0, strides[k]) for k in order]
                yield layout((12,), modes[:split], modes[split:])
                if split:
                    yield layout((12,), [(2, -1, 0), *modes[:split]], modes[split:])
                    yield layout((12,), [*modes[:split], (2, -1, 0)], modes[split:])
    for rows, columns in [(3, 4), (4, 3), (2, 6), (6, 2), (1, 12), (12, 1)]:
        for constructor in (local, spatial, column_local, column_spatial):
            yield constructor(rows, columns)


def test_layouts_are_equal_exactly_when_their_functions_are():
    by_form, by_function = defaultdict(list), defaultdict(list)
    for k, a in enumerate(small_layouts()):
        by_form[a].append(k)
        by_function[repr(meaning(a))].append(k)
    assert list(by_form.values()) == list(by_function.values())
    assert len(by_form) > 50


@given(ranks(2))
def test_random_layouts_are_equal_exactly_when_their_functions_are(pair):
    a, b = pair
    assert (a == b) == (meaning(a) == meaning(b))


@given(ANY)
def test_the_text_of_a_layout_rebuilds_it(a):
    again = eval(str(a), {"layout": layout})
    assert again == a
    assert hash(again) == hash(a)


def test_the_page_on_layouts_is_true():
    page = Path(__file__).parents[2] / "docs" / "layouts.md"
    failures, examples = doctest.testfile(str(page), module_relative=False)
    assert failures == 0
    assert examples > 30


def test_text_of_a_layout():
    text = "layout((16, 8), threads=((8, 0, 1), (4, 1, 2)), registers=((2, 0, 8), (2, 1, 1)))"
    assert str(ACCUMULATOR) == text


@given(ANY)
def test_thread_and_register_move_the_index_independently(a):
    for t, i in product(range(a.threads), range(a.registers)):
        parts = zip(a.thread_part(t), a.register_part(i), strict=True)
        assert a(t, i) == tuple(x + y for x, y in parts)
    assert a.thread_part(0) == a.register_part(0) == (0,) * a.rank


@given(ANY)
def test_arrays_are_indexed_like_numbers(a):
    threads, registers = np.arange(a.threads)[:, None], np.arange(a.registers)
    at = np.broadcast_arrays(*a(threads, registers), np.zeros((a.threads, a.registers)))[:-1]
    expected = np.array(function(a))
    assert np.array_equal(np.stack(at, axis=-1), expected)


class Written:
    """An expression that remembers how it was spelled."""

    def __init__(self, text):
        self.text = text

    def __add__(self, other):
        return Written(f"({self.text} + {other})")

    def __mul__(self, other):
        return Written(f"({self.text} * {other})")

    def __floordiv__(self, other):
        return Written(f"({self.text} // {other})")

    def __mod__(self, other):
        return Written(f"({self.text} % {other})")

    def __str__(self):
        return self.text


@given(ANY)
def test_expressions_are_indexed_like_numbers(a):
    texts = [str(x) for x in a(Written("t"), Written("i"))]
    for t, i in product(range(a.threads), range(a.registers)):
        assert tuple(eval(text, {"t": t, "i": i}) for text in texts) == a(t, i)


@pytest.mark.parametrize(
    ("a", "texts"),
    [
        (ACCUMULATOR, ["((t // 4) + ((i // 2) * 8))", "(((t % 4) * 2) + (i % 2))"]),
        (spatial(8, 1), ["t", "0"]),
        (column_spatial(8, 4), ["(t % 8)", "(t // 8)"]),
        (local(3) * spatial(32), ["(t + (i * 32))"]),
        (replicate(2, 1) * spatial(4), ["(t % 4)"]),
        (spatial(4) * replicate(2, 1), ["(t // 2)"]),
        (spatial(4, 1) * replicate(2, 2) * spatial(1, 4), ["(t // 8)", "(t % 4)"]),
        (local(1, 1), ["0", "0"]),
    ],
)
def test_no_operation_is_spent_on_an_absent_digit(a, texts):
    assert [str(x) for x in a(Written("t"), Written("i"))] == texts


@pytest.mark.parametrize(
    ("a", "texts"),
    [
        (ACCUMULATOR, ["(((x % 8) * 4) + (y // 2))", "(((x // 8) * 2) + (y % 2))"]),
        (spatial(4) * replicate(2, 1), ["(x * 2)", "0"]),
        (spatial(8, 1), ["x", "0"]),
    ],
)
def test_no_operation_of_an_owner_is_spent_on_an_absent_digit(a, texts):
    index = (Written("x"), Written("y"))[: a.rank]
    assert [str(number) for number in owner(a, index)] == texts


@given(ANY)
def test_owner_is_the_first_holder(a):
    holders = defaultdict(list)
    for t, i in product(range(a.threads), range(a.registers)):
        holders[a(t, i)].append((t, i))
    for index, held in holders.items():
        assert owner(a, index) == min(held)


@given(ANY)
def test_replicas_are_numbered_from_the_owner_on(a):
    for t, i in product(range(a.threads), range(a.registers)):
        assert (a.replica(t) == 0) == (owner(a, a(t, i))[0] == t)
    copies = [a.replica(t) for t in range(a.threads)]
    assert sorted(copies) == sorted([*range(a.replicas)] * (a.threads // a.replicas))


def test_replicas_far_apart_are_numbered_outermost_first():
    a = replicate(2, 1) * spatial(2) * replicate(3, 1)
    assert [a.replica(t) for t in range(12)] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_owner_needs_a_number_per_dimension():
    with pytest.raises(TilusError, match="1 numbers index a layout of rank 2"):
        owner(ACCUMULATOR, (3,))


@given(ANY, st.data())
def test_reducing_keeps_threads_and_forgets_where_they_were(a, data):
    dims = data.draw(st.sets(st.integers(0, a.rank - 1)))
    b = reduce(a, dims)
    assert b.shape == tuple(1 if d in dims else n for d, n in enumerate(a.shape))
    assert b.threads == a.threads
    forget = [
        [tuple(0 if d in dims else x for d, x in enumerate(index)) for index in thread]
        for thread in function(a)
    ]
    # registers that differed only along `dims` are one; the others keep their order
    assert function(b) == [list(dict.fromkeys(thread)) for thread in forget]


def test_reducing_a_dimension_that_is_not_there_is_refused():
    with pytest.raises(TilusError, match=r"dimensions \[2\] of a layout of rank 2"):
        reduce(ACCUMULATOR, [2])


@given(ANY, st.data())
def test_permuted_registers_hold_the_same_elements_in_another_order(a, data):
    splits = [[(n,), (n // 2, 2)] if n % 2 == 0 else [(n,)] for n, *_ in a.register_modes]
    cut = [size for choice in splits for size in data.draw(st.sampled_from(choice))]
    order = data.draw(st.permutations(range(len(cut))))
    b = permute_registers(a, cut, order)
    assert (b.shape, b.threads, b.registers) == (a.shape, a.threads, a.registers)
    for digits in product(*map(range, cut)):
        old, new = 0, 0
        for k, n in enumerate(cut):
            old = old * n + digits[k]
            new = new * cut[order[k]] + digits[order[k]]
        assert all(b(t, new) == a(t, old) for t in range(a.threads))


def test_permuting_cuts_through_and_spans_modes():
    assert function(permute_registers(local(8), (2, 2, 2), (2, 0, 1)))[0] == [
        (0,), (2,), (4,), (6,), (1,), (3,), (5,), (7,),
    ]  # fmt: skip
    a = local(2, 1) * local(1, 2) * local(2, 1)
    assert function(permute_registers(a, (2, 4), (1, 0)))[0] == [
        (0, 0), (2, 0), (1, 0), (3, 0), (0, 1), (2, 1), (1, 1), (3, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "order", "message"),
    [
        ((2, 2), (0, 1), r"has 6 registers, not \(2, 2\)"),
        ((-2, -3), (0, 1), r"has 6 registers, not \(-2, -3\)"),
        ((2, 3), (0, 0), "is no permutation of 2 digits"),
        ((2, 3), (0,), "is no permutation of 2 digits"),
        ((3, 2), (0, 1), r"\(3, 2\) cuts unevenly"),
    ],
)
def test_a_permutation_that_is_none_is_refused(sizes, order, message):
    with pytest.raises(TilusError, match=message):
        permute_registers(local(2, 1) * column_local(1, 3), sizes, order)


def runs(a: Layout, dim: int, v: int) -> bool:
    """Whether registers v*j .. v*j + v-1 hold indices v*k .. v*k + v-1 along `dim`, for every j."""
    if a.registers % v:
        return False
    for thread in function(a):
        for j in range(0, a.registers, v):
            first = thread[j]
            row = [tuple(x + k * (d == dim) for d, x in enumerate(first)) for k in range(v)]
            if first[dim] % v or thread[j : j + v] != row:
                return False
    return True


@given(ANY, st.data())
def test_contiguous_is_the_longest_run_of_a_power_of_two(a, data):
    dim = data.draw(st.integers(0, a.rank - 1))
    assert contiguous(a, dim) == max(v for v in (1, 2, 4, 8, 16, 32) if runs(a, dim, v))


@pytest.mark.parametrize(
    ("a", "dim", "run"),
    [(local(1, 8), 1, 8), (local(1, 8), 0, 1), (local(12), 0, 4), (LEFT, 1, 2), (RIGHT, 0, 2),
     (RIGHT, 1, 1), (local(8) * spatial(2), 0, 1), (spatial(2) * local(8), 0, 8),
     (spatial(4), 0, 1)],
)  # fmt: skip
def test_contiguous(a, dim, run):
    assert contiguous(a, dim) == run


def test_grid_names_the_owner_of_each_element():
    assert grid(spatial(2, 2) * local(1, 2)).splitlines() == ["0:0 0:1 1:0 1:1", "2:0 2:1 3:0 3:1"]
    assert grid(column_local(11)) == " 0:0  0:1  0:2  0:3  0:4  0:5  0:6  0:7  0:8  0:9 0:10"
    assert grid(spatial(2, 1, 2)).splitlines() == ["0:0 1:0", "", "2:0 3:0"]
    assert grid(replicate(2, 1) * local(2)) == "0:0 0:1"
    assert grid(local()) == "0:0"


@pytest.mark.parametrize(
    ("shape", "threads", "registers", "message"),
    [
        ((4,), [(2, 0, 1)], [], r"\[\(2, 1\)\] do not reach each of the 4 indices of dimension 0"),
        ((4,), [(2, 0, 1)], [(2, 0, 1)], "do not reach each of the 4 indices"),
        ((4,), [(2, 0, 1)], [(2, 0, 4)], "do not reach each of the 4 indices"),
        ((4,), [(2, 0, 2)], [(3, 0, 1)], "do not reach each of the 4 indices"),
        ((2, 2), [(2, 0, 1)], [], "indices of dimension 1 once"),
        ((0,), [], [], "each of the 0 indices"),
        ((0,), [(0, 0, 1)], [], r"size=0.* in a layout of rank 1: size and stride are positive"),
        ((-2,), [], [(-2, 0, 1)], r"size=-2.* in a layout of rank 1: size and stride"),
        ((1,), [(0, -1, 0)], [], r"size=0.* in a layout of rank 1: size and stride"),
        ((4,), [(4, 1, 1)], [], "in a layout of rank 1: size and stride are positive"),
        ((4,), [(4, -1, 1)], [], "in a layout of rank 1: size and stride are positive"),
        ((4,), [(-2, 0, -2), (-2, 0, 1)], [], "in a layout of rank 1: size and stride"),
        ((4,), [(4, 0, 0)], [], "in a layout of rank 1: size and stride"),
        ((1,), [], [(2, -1, 0)], "registers .* hold replicas: only threads may"),
    ],
)
def test_modes_that_make_no_layout_are_refused(shape, threads, registers, message):
    with pytest.raises(TilusError, match=message):
        layout(shape, threads, registers)
