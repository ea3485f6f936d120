"""Boxes that the copy engine moves: swizzles, maps, and what it cannot move."""

import re
from typing import Any

import pytest

from tests.tilus.protocols import HEIGHT, PROTOCOLS, SIDE, WIDTH, X, Y, boxes, traced
from tests.tilus.test_hopper import BARRIERS, code_of
from tilus.codegen import generate, map_numbers
from tilus.compiler import compile
from tilus.dtypes import DType, f16, f32, u8, u64
from tilus.errors import TilusError
from tilus.ir import Global, Integer, Shared, Swizzle, Var
from tilus.isa import ISA
from tilus.isa.tensor_copies import tensor_swizzle
from tilus.runtime import launcher


def test_a_map_must_follow_from_the_parameters() -> None:
    program = traced(boxes(known=False), 160, (X, Y, Integer("n")))
    with pytest.raises(TilusError, match=r"depend on \['v0'\]"):
        generate(program, "sm_90a")


@pytest.mark.parametrize("dtype", [u8, f16, f32], ids=str)
@pytest.mark.parametrize("span", [32, 64, 128])
def test_tensor_swizzle_is_the_engine_s(span: int, dtype: DType) -> None:
    """Which 16-byte part of its line a part of a box comes to: tables for eight rows of a line."""
    size, parts = dtype.bits // 8, span // 16
    swizzle = tensor_swizzle(span, dtype)
    for offset in range(4096 // size):
        line, part, within = offset * size // 128, offset * size // 16 % 8, offset * size % 16
        moved = part // parts * parts + (part % parts ^ line % parts)
        assert swizzle(offset) * size == line * 128 + moved * 16 + within


def test_a_map_is_made_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    class View:
        @staticmethod
        def from_cuda_array_interface(array: Any, stream_ptr: int) -> "View":
            told.update(array.__cuda_array_interface__)
            return View()

        def as_tensor_map(self, box: tuple[int, ...], swizzle: int) -> str:
            told.update(box=box, swizzle=swizzle)
            return "map"

    monkeypatch.setattr(launcher, "StridedMemoryView", View)
    wanted = compile(PROTOCOLS["boxes"].program, "sm_90a").maps[0]
    numbers = map_numbers(wanted, {"n": HEIGHT})
    assert (wanted.pointer, numbers.bytes, numbers.shape) == ("x", 4, (HEIGHT, WIDTH))
    made = launcher.tensor_map(4096, *numbers)
    assert made == "map"
    assert (told["shape"], told["strides"]) == ((HEIGHT, WIDTH), (WIDTH * 4, 4))
    assert (told["box"], int(told["swizzle"])) == ((SIDE, SIDE), 3)


ENGINES = ISA["copy_tensor_async"], ISA["store_tensor_async"]
HALVES = Shared("s0", f16, (2, 16, 64), tensor_swizzle(128, f16))


@pytest.mark.parametrize(("src", "dst", "to", "shape", "says"), [
    (Global("g0", f16, (20, 32), (36, 1), "p0"), HALVES, (0, 0, 0), (16, 64), "stride 36 .* 16"),
    (Global("g0", f16, (20, 40), (40, 2), "p0"), HALVES, (0, 0, 0), (16, 64), "2 apart: want 1"),
    (Global("g0", f16, (20, 40), (40, 1), "p0"), HALVES, (0, 4, 0), (8, 64), "1024-byte aligned"),
    (Global("g0", f16, (20, 40), (40, 1), "p0"), HALVES, (0, 0, 0), (16, 32), "rows of 64 bytes"),
    (Global("g0", f16, (20, 40), (40, 1), "p0"), Shared("s0", f16, (32, 64)), (0, 0), (8, 32),
     "lies in pieces"),
    (Global("g0", f16, (20, 40), (40, 1), "p0"), Shared("s0", f16, (32, 64), Swizzle(3, 5, 3)),
     (0, 0), (8, 64), "the copy engine has no"),
    (Global("g0", f16, (20, 40), (40, 1), "p0"), Shared("s0", f16, (4, 64), Swizzle(3, 6, 3)),
     (0, 0), (4, 64), "at least 1024 bytes"),
    (Global("g0", f16, (2000,), (1,), "p0"), Shared("s0", f16, (512,)), (0,), (512,), "of 256"),
    (Global("g0", u64, (20, 40), (40, 1), "p0"), Shared("s0", u64, (8, 8)), (0, 0), (8, 8),
     "8, 16 or 32 bits"),
])  # fmt: skip
def test_a_box_that_the_engine_cannot_move_is_refused(
    src: Global, dst: Shared, to: tuple[int, ...], shape: tuple[int, ...], says: str
) -> None:
    at = (0,) * len(src.shape)
    with pytest.raises(TilusError, match=says):
        code_of(ISA["copy_tensor_async"](src, dst, at, to, shape, BARRIERS, 0))
    with pytest.raises(TilusError, match=says):
        code_of(ISA["store_tensor_async"](dst, src, to, at, shape))


def test_a_box_begins_at_a_whole_part() -> None:
    """An H200 answers an illegal instruction to one that does not."""
    wide, n, copy, store = Global("g0", f16, (20, 40), (40, 1), "p0"), Var("n"), *ENGINES
    for at in (4, 12, n, n * 4):
        says = f"{re.escape(str(at))}.* multiple of 16 bytes into its last dimension"
        with pytest.raises(TilusError, match=says):
            code_of(copy(wide, HALVES, (0, at), (0, 0, 0), (16, 64), BARRIERS, 0))
        with pytest.raises(TilusError, match=says):
            code_of(store(HALVES, wide, (0, 0, 0), (0, at), (16, 64)))
    code_of(copy(wide, HALVES, (3, n * 8), (0, 0, 0), (16, 64), BARRIERS, 0))


def test_a_store_wants_a_tensor_that_ends_after_a_whole_part() -> None:
    """An H200 writes the last 16 bytes of a row as a whole; what it reads it cuts where it ends."""
    short, copy, store = Global("g0", f16, (20, 37), (40, 1), "p0"), *ENGINES
    with pytest.raises(TilusError, match="written beyond it"):
        code_of(store(HALVES, short, (0, 0, 0), (0, 0), (16, 64)))
    code_of(copy(short, HALVES, (0, 0), (0, 0, 0), (16, 64), BARRIERS, 0))
