"""out = a @ w on tensor cores, each warp reading what it multiplies straight from global memory.

A tensor core wants its operands dealt to the 32 threads of a warp in a certain way: `A`, `B` and
`C` are these fragments of mma.m16n8k16. Tiles are made of them: `local(2, 2) * A` is four of them
in the same warp, and `WARPS * ..` gives each of 2 x 2 warps its own. A warp needs the rows of `a`
and the columns of `w` that make its part of the result, so `a` is the same for the warps in a row
of `WARPS`, and `w` for those in a column: that is what `reduce` says.
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


def matmul(t: Tracer, a: Var, w: Var, out: Var, m: Var, n: Var, k: Var) -> None:
    row, column = t.blocks[1] * M, t.blocks[0] * N
    rows = t.view_global(a, f16, (m, k))
    columns = t.view_global(w, f16, (k, n))
    sums = t.allocate_register(f32, C_TILE)
    for step in t.range(0, ceil_div(k, K)):
        left = t.load_global(rows, (row, step * K), A_TILE)
        right = t.load_global(columns, (step * K, column), B_TILE)
        t.assign(sums, t.dot(left, right, sums))
    t.store_global(t.view_global(out, f16, (m, n)), t.cast(sums, f16), (row, column))


def program() -> Program:
    return trace(
        "matmul",
        matmul,
        (
            Pointer("a", f16), Pointer("w", f16), Pointer("out", f16),
            Integer("m"), Integer("n"), Integer("k"),
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
