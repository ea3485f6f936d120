"""out = a @ w, the tiles of later steps under way while the tensor cores work on one.

`copy_async` brings a tile from global to shared memory past the registers, and does not wait. In a
loop of 3 stages the copies come first, and are there when the rest of a turn starts: shared memory
becomes a ring of 3 tiles, copies run 2 turns ahead, and all the waiting and synchronising is done
by the loop.
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
    f16,
    f32,
    local,
    reduce,
    run_on_host,
    spatial,
    trace,
)

A = column_local(2, 2) * spatial(8, 4) * local(1, 2)  # [16, 16]
B = local(2, 1) * column_spatial(4, 8) * local(2, 1)  # [16, 8]
C = local(2, 1) * spatial(8, 4) * local(1, 2)  # [16, 8]
WARPS = spatial(2, 2)
A_TILE = reduce(WARPS, [1]) * local(2, 2) * A  # [64, 32]
B_TILE = reduce(WARPS, [0]) * local(2, 4) * B  # [32, 64]
C_TILE = WARPS * local(2, 4) * C  # [64, 64]
M, N = C_TILE.shape
_, K = A_TILE.shape
STAGES = 3


def matmul(t: Tracer, a: Var, w: Var, out: Var, m: Var, n: Var, k: Var) -> None:
    row, column = t.blocks[1] * M, t.blocks[0] * N
    rows = t.view_global(a, f16, (m, k))
    columns = t.view_global(w, f16, (k, n))
    a_held, w_held = t.allocate_shared(f16, (M, K)), t.allocate_shared(f16, (K, N))
    sums = t.allocate_register(f32, C_TILE)
    for step in t.range(0, ceil_div(k, K), stages=STAGES):
        t.copy_async(rows, a_held, (row, step * K), (0, 0), (M, K))
        t.copy_async(columns, w_held, (step * K, column), (0, 0), (K, N))
        left = t.load_matrix(a_held, (0, 0), A_TILE)
        right = t.load_matrix(w_held, (0, 0), B_TILE)
        t.assign(sums, t.dot(left, right, sums))
    t.store_global(t.view_global(out, f16, (m, n)), t.cast(sums, f16), (row, column))


def program() -> Program:
    return trace(
        "matmul_pipelined",
        matmul,
        (
            Pointer("a", f16), Pointer("w", f16), Pointer("out", f16),
            Integer("m"), Integer("n", 8), Integer("k", 8),
        ),
        grid=lambda a, w, out, m, n, k: (ceil_div(n, N), ceil_div(m, M), 1),
        threads=WARPS.threads * 32,
    )  # fmt: skip


def case(
    rng: np.random.Generator, m: int = 70, n: int = 88, k: int = 104
) -> tuple[dict, np.ndarray]:
    """Arguments, and what `out` must become."""
    a = rng.standard_normal((m, k)).astype(np.float16)
    w = rng.standard_normal((k, n)).astype(np.float16)
    out = np.zeros(m * n, np.float16)
    want = a.astype(np.float64) @ w.astype(np.float64)
    given = {"a": a.ravel(), "w": w.ravel(), "out": out, "m": m, "n": n, "k": k}
    return given, want.ravel()


def main() -> None:
    given, want = case(np.random.default_rng(0))
    run_on_host(program(), given)
    error = np.linalg.norm(given["out"] - want) / np.linalg.norm(want)
    built = compile(program(), "sm_90")
    print(f"{built.entry}: error {error:.1e}; {built.resources.registers} registers on sm_90")


if __name__ == "__main__":
    main()
