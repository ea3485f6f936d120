"""out = a @ w for 6-bit floats, e3m2: 24 bits a lane are loaded as 3 bytes and viewed as 4 numbers.

A fragment of the tensor core takes 4 elements of `w` from each lane. Four 6-bit numbers are no
word, but they are three bytes: memory sees bytes, the tensor core sees numbers, and in between
`view` says that both are the same bits. Numbers may straddle bytes; the cast knows how.
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
    reduce,
    run_on_host,
    spatial,
    trace,
    u8,
)

A = column_local(2, 2) * spatial(8, 4) * local(1, 2)  # [16, 16]
B = local(2, 1) * column_spatial(4, 8) * local(2, 1)  # [16, 8]
C = local(2, 1) * spatial(8, 4) * local(1, 2)  # [16, 8]
WARPS = spatial(2, 2)
F6 = dtype("float6_e3m2")
BYTES = local(1, 3) * spatial(1, 32)  # [1, 96]: those of a fragment, 3 a lane
A_TILE = reduce(WARPS, [1]) * local(2, 2) * A  # [64, 32]
B_TILE = reduce(WARPS, [0]) * local(2, 4) * B  # [32, 64]
BYTES_TILE = reduce(WARPS, [0]) * local(2, 4) * BYTES  # [2, 768]
C_TILE = WARPS * local(2, 4) * C  # [64, 64]
M, N = C_TILE.shape
_, K = A_TILE.shape
STAGES = 3


def matmul(t: Tracer, a: Var, bytes: Var, scales: Var, out: Var, m: Var, n: Var, k: Var) -> None:
    row, column = t.blocks[1] * M, t.blocks[0] * N
    rows = t.view_global(a, f16, (m, k))
    steps = ceil_div(k, K)
    columns = t.view_global(bytes, u8, (steps * 2, ceil_div(n, 8) * 96))
    groups = t.view_global(scales, f16, (steps, n))
    a_held, w_held = t.allocate_shared(f16, (M, K)), t.allocate_shared(u8, BYTES_TILE.shape)
    sums = t.allocate_register(f32, C_TILE)
    for step in t.range(0, steps, stages=STAGES):
        t.copy_async(rows, a_held, (row, step * K), (0, 0), (M, K))
        at = (step * 2, t.blocks[0] * BYTES_TILE.shape[1])
        t.copy_async(columns, w_held, at, (0, 0), BYTES_TILE.shape)
        left = t.load_matrix(a_held, (0, 0), A_TILE)
        codes = t.view(t.load_shared(w_held, (0, 0), BYTES_TILE), F6, B_TILE)
        numbers = t.cast(codes, f16)
        scale = t.load_global(groups, (step, column), reduce(numbers.layout, [0]))
        right = t.mul(numbers, scale)
        t.assign(sums, t.dot(left, right, sums))
    t.store_global(t.view_global(out, f16, (m, n)), t.cast(sums, f16), (row, column))


def program() -> Program:
    return trace(
        "matmul_f6",
        matmul,
        (
            Pointer("a", f16), Pointer("bytes", u8), Pointer("scales", f16), Pointer("out", f16),
            Integer("m"), Integer("n", 8), Integer("k", 8),
        ),
        grid=lambda a, bytes, scales, out, m, n, k: (ceil_div(n, N), ceil_div(m, M), 1),
        threads=WARPS.threads * 32,
    )  # fmt: skip


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes [k, n] as bytes [k / 16, n / 8, 3, lane]."""
    (k, n), (rows, columns) = codes.shape, B.shape
    whole = np.pad(codes, ((0, -k % K), (0, -n % columns)))
    tiles = whole.reshape(len(whole) // rows, rows, -1, columns)
    lane, register = np.arange(32)[:, None], np.arange(4)
    row, column = B(lane, register)
    held = F6.pack(tiles.swapaxes(1, 2)[:, :, row, column])
    return held.reshape(-1, 32, 3).swapaxes(1, 2).ravel()


def case(
    rng: np.random.Generator, m: int = 70, n: int = 88, k: int = 104
) -> tuple[dict, np.ndarray]:
    """Arguments, and what `out` must become."""
    a = rng.standard_normal((m, k)).astype(np.float16)
    numbers, group = rng.standard_normal((k, n)), np.arange(k) // K
    scales = rng.uniform(2 / F6.max, 4 / F6.max, (group[-1] + 1, n)).astype(np.float16)
    codes = F6.encode(numbers / scales[group])
    want = a.astype(np.float64) @ (F6.decode(codes) * scales[group])
    given = {
        "a": a.ravel(), "bytes": pack(codes), "scales": scales.ravel(),
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
