"""out = a @ w, where w is stored as 4-bit numbers: w[k, n] = (code - 8) * scale[k // 32, n].

Every lane's part of a 32 x 8 tile is 8 codes: one 32-bit word. So the weight is stored as the words
that lanes load, 32 in a row for the 32 lanes of a warp, and `view` reads the bits of a loaded word
as the 8 codes that they are: nothing moves, and the tensor core gets them after one `cast`. Which
lane holds which code is said once, by the layout `CODES`, for the kernel and for `pack`.
"""

import numpy as np

from tilus import (
    Integer,
    Pointer,
    Program,
    Tracer,
    Var,
    ceil_div,
    column_local,
    column_spatial,
    compile,
    dtype,
    f16,
    f32,
    local,
    permute_registers,
    reduce,
    run_on_host,
    spatial,
    trace,
    u32,
)

A = column_local(2, 2) * spatial(8, 4) * local(1, 2)  # [16, 16]
B = local(2, 1) * column_spatial(4, 8) * local(2, 1)  # [16, 8]
C = local(2, 1) * spatial(8, 4) * local(1, 2)  # [16, 8]
WARPS = spatial(2, 2)
U4 = dtype("uint4")
# a cast makes neighbours of codes that are 4 apart in a word: two for one register of the fragment
CODES = permute_registers(local(2, 1) * B, (4, 2), (1, 0))  # [32, 8], a word a lane
A_TILE = reduce(WARPS, [1]) * local(2, 2) * A  # [64, 32]
CODES_TILE = reduce(WARPS, [0]) * local(1, 4) * CODES  # [32, 64]
WORDS_TILE = reduce(WARPS, [0]) * local(1, 4) * spatial(1, 32)  # [1, 256]: 32 words for each CODES
C_TILE = WARPS * local(2, 4) * C  # [64, 64]
M, N = C_TILE.shape
_, K = A_TILE.shape
_, WORDS = WORDS_TILE.shape
STAGES = 3


def matmul(t: Tracer, a: Var, words: Var, scales: Var, out: Var, m: Var, n: Var, k: Var) -> None:
    row, column = t.blocks[1] * M, t.blocks[0] * N
    rows = t.view_global(a, f16, (m, k))
    steps = ceil_div(k, K)
    columns = t.view_global(words, u32, (steps, ceil_div(n, 8) * 32))
    groups = t.view_global(scales, f16, (steps, n))
    a_held, w_held = t.allocate_shared(f16, (M, K)), t.allocate_shared(u32, (1, WORDS))
    eight = t.allocate_register(f16, CODES_TILE, 8)
    sums = t.allocate_register(f32, C_TILE)
    for step in t.range(0, steps, stages=STAGES):
        t.copy_async(rows, a_held, (row, step * K), (0, 0), (M, K))
        t.copy_async(columns, w_held, (step, t.blocks[0] * WORDS), (0, 0), (1, WORDS))
        left = t.load_matrix(a_held, (0, 0), A_TILE)
        codes = t.view(t.load_shared(w_held, (0, 0), WORDS_TILE), U4, CODES_TILE)
        numbers = t.cast(codes, f16)
        scale = t.load_global(groups, (step, column), reduce(numbers.layout, [0]))
        right = t.mul(t.sub(numbers, eight), scale)
        t.assign(sums, t.dot(left, right, sums))
    t.store_global(t.view_global(out, f16, (m, n)), t.cast(sums, f16), (row, column))


def program() -> Program:
    return trace(
        "matmul_u4",
        matmul,
        (
            Pointer("a", f16), Pointer("words", u32), Pointer("scales", f16), Pointer("out", f16),
            Integer("m"), Integer("n", 8), Integer("k", 8),
        ),
        grid=lambda a, words, scales, out, m, n, k: (ceil_div(n, N), ceil_div(m, M), 1),
        threads=WARPS.threads * 32,
    )  # fmt: skip


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes [k, n] as words [k / 32, n / 8, lane]."""
    (k, n), (rows, columns) = codes.shape, CODES.shape
    whole = np.pad(codes, ((0, -k % rows), (0, -n % columns)))
    tiles = whole.reshape(len(whole) // rows, rows, -1, columns)
    lane, register = np.arange(32)[:, None], np.arange(8)
    row, column = CODES(lane, register)
    return U4.pack(tiles.swapaxes(1, 2)[:, :, row, column]).view(np.uint32)


def case(
    rng: np.random.Generator, m: int = 70, n: int = 88, k: int = 104
) -> tuple[dict, np.ndarray]:
    """Arguments, and what `out` must become."""
    a = rng.standard_normal((m, k)).astype(np.float16)
    numbers, group = rng.standard_normal((k, n)), np.arange(k) // K
    scales = rng.uniform(2 / 7, 4 / 7, (group[-1] + 1, n)).astype(np.float16)
    codes = U4.encode(numbers / scales[group] + 8)
    want = a.astype(np.float64) @ ((U4.decode(codes) - 8) * scales[group])
    given = {
        "a": a.ravel(), "words": pack(codes), "scales": scales.ravel(),
        "out": np.zeros(m * n, np.float16), "m": m, "n": n, "k": k,
    }  # fmt: skip
    return given, want.ravel()


def main() -> None:
    given, want = case(np.random.default_rng(0))
    run_on_host(program(), given)
    error = np.linalg.norm(given["out"] - want) / np.linalg.norm(want)
    built = compile(program(), "sm_90")
    print(f"{built.entry}: error {error:.1e}; {built.resources.registers} registers on sm_90")


if __name__ == "__main__":
    main()
