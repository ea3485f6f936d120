"""The Triton kernel: f16 times packed 8- or 4-bit weights with scales and zero points.

Imported only where Triton is installed. The weight is cut into chunks of 128 rows; a chunk stores,
column by column, the 128 codes of that column: 128 bytes of 8 bits, or 64 bytes whose low nibbles
are rows 0..63 and whose high nibbles are rows 64..127. So a tile of any width is one contiguous run
of memory, k is the fastest axis, and a chunk never spans two groups."""

# the language of this file is Triton, whose decorator and types mypy does not know
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

CHUNK = 128


# four bytes to four f16 of 1024 + byte: each byte gets 0x64 as its upper neighbour
DECODE_BYTES = tl.constexpr("""
prmt.b32 $0, $2, 0x64646464, 0x4140;
prmt.b32 $1, $2, 0x64646464, 0x4342;
""")
DECODE_NIBBLES = tl.constexpr("""{
.reg .b32 low, high;
and.b32 low, $4, 0x0f0f0f0f;
shr.b32 high, $4, 4;
and.b32 high, high, 0x0f0f0f0f;
prmt.b32 $0, low, 0x64646464, 0x4140;
prmt.b32 $1, low, 0x64646464, 0x4342;
prmt.b32 $2, high, 0x64646464, 0x4140;
prmt.b32 $3, high, 0x64646464, 0x4342;
}""")


@triton.jit
def decode(codes):
    """f16 of 1024 + code, exact: the code becomes the low bits of the mantissa of 1024."""
    return (codes.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True)


@triton.jit
def decode_bytes(codes, PTX: tl.constexpr):
    """`decode` of every byte, four at a time with PTX."""
    if PTX:
        return tl.inline_asm_elementwise(
            DECODE_BYTES, "=r,=r,r", [codes], dtype=tl.float16, is_pure=True, pack=4
        )
    return decode(codes)


@triton.jit
def decode_nibbles(codes, PTX: tl.constexpr):
    """`decode` of the low and the high half of every byte, four at a time with PTX."""
    if PTX:
        low, high = tl.inline_asm_elementwise(
            DECODE_NIBBLES,
            "=r,=r,=r,=r,r",
            [codes],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
        return low, high
    return decode(codes & 0xF), decode(codes >> 4)


@triton.jit
def finish(total, c, partials, counter, split, slab, at, inside, SPLIT_K: tl.constexpr):
    """Write the tile, or a part of it: the last split to arrive adds all parts up in order."""
    if SPLIT_K == 1:
        tl.store(c + at, total.to(tl.float16), mask=inside)
    else:
        tl.store(partials + split * slab + at, total, mask=inside)
        tl.debug_barrier()  # the parts of all threads are written before the one that counts
        arrived = tl.atomic_add(counter, 1, sem="acq_rel")
        if arrived == SPLIT_K - 1:
            whole = tl.zeros_like(total)
            for other in range(0, SPLIT_K):
                part = partials + other * slab + at
                whole += tl.load(part, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(c + at, whole.to(tl.float16), mask=inside)
            tl.atomic_xchg(counter, 0, sem="relaxed")


@triton.jit
def quantized_matmul(
    a,
    words,
    scales,
    zeros,
    c,
    partials,
    counters,
    m,
    n,
    k,
    BITS: tl.constexpr,
    GROUP_CHUNKS: tl.constexpr,
    ZEROS: tl.constexpr,
    SCALE_SUMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    PTX: tl.constexpr,
):
    """c = a @ ((codes - zeros) * scales), k split over blocks; a tile's last block adds up."""
    PARTS: tl.constexpr = 128 // BLOCK_K
    ROWS: tl.constexpr = BLOCK_K * BITS // 8
    COLUMN: tl.constexpr = 128 * BITS // 8
    HALF: tl.constexpr = 64

    tile = tl.program_id(0)
    split = tl.program_id(1)
    tiles_n = tl.cdiv(n, BLOCK_N)
    tile_m = tile // tiles_n
    tile_n = tile % tiles_n

    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_m = rows[:, None] < m
    inside_n = columns < n
    ks = tl.arange(0, ROWS)

    steps = k // BLOCK_K
    share = tl.cdiv(steps, SPLIT_K)
    first = split * share
    last = tl.minimum(first + share, steps)

    a_tile = a + rows[:, None] * k + ks[None, :]
    b_tile = words + columns[None, :] * COLUMN + ks[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        chunk = step // PARTS
        part = step % PARTS
        b_at = b_tile + chunk.to(tl.int64) * n * COLUMN + part * ROWS
        codes = tl.load(b_at, mask=inside_n[None, :], other=0)
        a_at = a_tile + step * BLOCK_K
        a_low = tl.load(a_at, mask=inside_m, other=0.0)
        group = chunk // GROUP_CHUNKS if GROUP_CHUNKS > 0 else 0
        s = tl.load(scales + group * n + columns, mask=inside_n, other=0.0)
        if ZEROS:
            z = tl.load(zeros + group * n + columns, mask=inside_n, other=0.0)
        else:
            z = tl.zeros((BLOCK_N,), dtype=tl.float16)

        if BITS == 4:
            a_high = tl.load(a_at + HALF, mask=inside_m, other=0.0)
            low, high = decode_nibbles(codes, PTX)
        else:
            low = decode_bytes(codes, PTX)

        if SCALE_SUMS:
            sums = tl.dot(a_low, low)
            weight_of_zero = tl.sum(a_low.to(tl.float32), axis=1)
            if BITS == 4:
                sums = tl.dot(a_high, high, sums)
                weight_of_zero += tl.sum(a_high.to(tl.float32), axis=1)
            offset = z.to(tl.float32) + 1024.0
            total += (sums - weight_of_zero[:, None] * offset[None, :]) * s.to(tl.float32)[None, :]
        else:
            low = (low - 1024.0 - z[None, :]) * s[None, :]
            total = tl.dot(a_low, low, total)
            if BITS == 4:
                high = (high - 1024.0 - z[None, :]) * s[None, :]
                total = tl.dot(a_high, high, total)

    inside = inside_m & inside_n[None, :]
    at = rows[:, None] * n + columns[None, :]
    finish(total, c, partials, counters + tile, split, m.to(tl.int64) * n, at, inside, SPLIT_K)
