"""Casts one by one, on the processor: every code of a format to every other, bit by bit."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tilus import codegen
from tilus.casts import fast_row, lift_factor, lift_offset
from tilus.compiler import run_on_host
from tilus.dtypes import ALL, DType, bf16, boolean, dtype, f16, f32, i32, u8, u32
from tilus.ir import Global, Integer, Pointer, Program, Var
from tilus.isa.casting import convert
from tilus.lang import Tracer, trace
from tilus.layout import Layout, local, spatial
from tilus.runtime import host

SMALL = [t for t in ALL if t.bits <= 8]
WIDE = (f16, bf16, f32, i32, u32)
TILE = spatial(32) * local(8)  # eight elements of n bits are n bytes
# of the small formats one goes to each other: all pairs would take minutes to compile
SMALL_PAIRS = [(t, SMALL[(i + step) % len(SMALL)]) for i, t in enumerate(SMALL)
               for step in (0, 1, 9, 17, 25, 33)]  # fmt: skip
PAIRS = [(wide, small) for wide in WIDE for small in SMALL] + SMALL_PAIRS + [
    (a, b) for a in WIDE for b in WIDE if a != b
]  # fmt: skip
ORACLE = {
    "float8_e4m3": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
    "float6_e3m2": ml_dtypes.float6_e3m2fn, "float6_e2m3": ml_dtypes.float6_e2m3fn,
    "float4_e2m1": ml_dtypes.float4_e2m1fn,
}  # fmt: skip


def cast_program(source: DType, target: DType) -> Program:
    """Tile after tile of `x`, packed elements of `source`, to packed ones of `target`."""

    def kernel(t: Tracer, x: Var, y: Var, tiles: Var) -> None:
        for i in t.range(0, tiles):
            raw = t.load_global(packed(t, x, tiles, source), (i, 0, 0), byte_layout(source))
            held = t.view(t.cast(t.view(raw, source, TILE), target), u8, byte_layout(target))
            t.store_global(packed(t, y, tiles, target), held, (i, 0, 0))

    def packed(t: Tracer, pointer: Var, tiles: Var, of: DType) -> Global:
        return t.view_global(pointer, u8, (tiles, 32, of.bits), (32 * of.bits, of.bits, 1))

    parameters = (Pointer("x", u8), Pointer("y", u8), Integer("tiles"))
    name = f"{source.short}_to_{target.short}"
    return trace(name, kernel, parameters, lambda *p: (1, 1, 1), 32)


def byte_layout(t: DType) -> Layout:
    return spatial(32, 1) * local(1, t.bits)


def codes_of(t: DType) -> np.ndarray:
    """Every code; of 32-bit types those at and beside each float16 and bfloat16, ties between
    them, and random ones."""
    if t.bits <= 16:
        return np.resize(np.arange(1 << t.bits), max(256, 1 << t.bits)).astype(t.code_type)
    rng = np.random.default_rng(0)
    random = rng.integers(0, 1 << 32, 1 << 14, np.uint32)
    if t.kind != "float":
        size = np.uint32(1) << np.arange(32, dtype=np.uint32)
        near = (size[:, None] | size >> 1 | size >> 3).ravel()
        return whole_tiles(random, near - 1, near, near + 1)
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        single = halves[::3].astype(np.float32).view(np.uint32)
    brain = np.arange(1 << 16, dtype=np.uint32)[::3] << 16
    near = np.concatenate([single, brain, brain | 0x8000])
    return whole_tiles(random, near - 1, near, near + 1)


def whole_tiles(*parts: np.ndarray) -> np.ndarray:
    codes = np.concatenate(parts)
    return np.resize(codes, -(-codes.size // 256) * 256)


@pytest.fixture(scope="module")
def library() -> Path:
    programs = [cast_program(*pair) for pair in PAIRS]
    sources = [(p, codegen.generate(p)) for p in programs]
    return host.build("".join(s.text + codegen.host_entry(p, s) for p, s in sources), "-O0")


def cast(library: Path, source: DType, target: DType) -> tuple[np.ndarray, np.ndarray]:
    """The codes that went in and those that came out."""
    codes = codes_of(source)
    tiles = codes.size // 256
    x = source.pack(codes)
    y = np.zeros(tiles * 32 * target.bits, np.uint8)
    host.run(library, f"{source.short}_to_{target.short}", [x, y, tiles], (1, 1, 1))
    return codes, target.unpack(y, codes.size)


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_every_code_is_cast_as_carry_says(source: DType, target: DType, library: Path) -> None:
    codes, got = cast(library, source, target)
    want = target.codes(convert(codes.view(source.carrier), source, target))
    nan = np.isnan(source.decode(codes)) & (target in (f16, bf16, f32))
    np.testing.assert_array_equal(got[~nan], want[~nan])
    assert np.isnan(target.decode(got[nan])).all()


@pytest.mark.parametrize("name", ORACLE)
def test_every_float16_is_cast_as_others_do(name: str, library: Path) -> None:
    """Within the range; beyond it others give NaN or wrap where this machine saturates."""
    target = dtype(name)
    codes, got = cast(library, f16, target)
    numbers = codes.view(np.float16)
    inside = np.abs(numbers.astype(np.float32)) <= target.max
    want = numbers[inside].astype(ORACLE[name]).view(np.uint8)
    np.testing.assert_array_equal(got[inside], want)


def test_true_is_what_is_not_zero(library: Path) -> None:
    codes, got = cast(library, f16, boolean)
    np.testing.assert_array_equal(got, codes.view(np.float16) != 0)


LIFTED = [t for t in SMALL if t.bits <= 8 and (row := fast_row(t, f16)) is not None and row.lift]


def lift_program(source: DType) -> Program:
    """1024 elements of `source`, each code next to all sorts of others, lifted to float16."""

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        raw = t.load_global(t.view_global(x, u8, (32, 4 * source.bits)), (0, 0),
                            spatial(32, 1) * local(1, 4 * source.bits))  # fmt: skip
        lifted = t.lift(t.view(raw, source, spatial(32) * local(32)))
        t.store_global(t.view_global(y, f16, (1024,)), lifted, (0,))

    pointers = (Pointer("x", u8), Pointer("y", f16))
    return trace(f"lift_{source.short}", kernel, pointers, lambda *p: (1, 1, 1), 32)


@pytest.mark.parametrize("t", LIFTED, ids=str)
def test_a_lifted_number_is_the_number_but_for_a_factor_and_an_offset(t: DType) -> None:
    codes = np.random.default_rng(0).permutation(np.arange(1024) % (1 << t.bits)).astype(np.uint8)
    arguments = {"x": dtype(f"u{t.bits}").pack(codes), "y": np.zeros(1024, np.float16)}
    run_on_host(lift_program(t), arguments)
    values = t.values(codes)
    beyond = np.abs(values) > np.finfo(np.float16).max
    want = np.where(beyond, np.copysign(np.inf, values), values)
    with np.errstate(invalid="ignore"):  # NaN may be a signalling one
        lifted = arguments["y"].astype(np.float64) * lift_factor(t) - lift_offset(t)
    np.testing.assert_array_equal(lifted, want)
