"""out = exp(x - max) / sum of exp(x - max), row by row: one warp holds a row and reduces it.

`t.reduce(x, 1, "max")` gives a tile of extent 1 in dimension 1, which every thread of the row
holds; with it `sub` and `div` are broadcast back over the row. Without the largest subtracted,
`exp` would overflow. Elements outside the tensor read as zero, which is no harmless number here:
`inside` says which they are.
"""

import numpy as np

from tilus import (
    Integer,
    Pointer,
    Program,
    Tracer,
    Var,
    ceil_div,
    compile,
    f32,
    local,
    run_on_host,
    spatial,
    trace,
)

TILE = spatial(4, 1) * local(1, 8) * spatial(1, 32)  # a row a warp, neighbours in neighbour lanes
ROWS, COLUMNS = TILE.shape


def softmax(t: Tracer, x: Var, out: Var, m: Var, n: Var) -> None:
    t.assert_(n <= COLUMNS, "a row fits into a tile")
    at = (t.blocks[0] * ROWS, 0)
    source = t.view_global(x, f32, (m, n))
    outside = t.allocate_register(f32, TILE, -np.inf)
    row = t.where(t.inside(source, at, TILE), t.load_global(source, at, TILE), outside)
    grown = t.exp(t.sub(row, t.reduce(row, 1, "max")))
    shares = t.div(grown, t.reduce(grown, 1, "sum"))
    t.store_global(t.view_global(out, f32, (m, n)), shares, at)


def program() -> Program:
    return trace(
        "softmax",
        softmax,
        (Pointer("x", f32), Pointer("out", f32), Integer("m"), Integer("n")),
        grid=lambda x, out, m, n: (ceil_div(m, ROWS), 1, 1),
        threads=TILE.threads,
    )


def case(rng: np.random.Generator, m: int = 10, n: int = 50) -> tuple[dict, np.ndarray]:
    """Arguments, and what `out` must become."""
    rows = np.linspace(-200, 200, m)[:, None]  # exp of which is 0 or infinite
    x = (rows + rng.standard_normal((m, n))).astype(np.float32)
    grown = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    want = grown / grown.sum(axis=1, keepdims=True)
    return {"x": x.ravel(), "out": np.zeros(m * n, np.float32), "m": m, "n": n}, want.ravel()


def main() -> None:
    given, want = case(np.random.default_rng(0))
    run_on_host(program(), given)
    error = np.linalg.norm(given["out"] - want) / np.linalg.norm(want)
    built = compile(program(), "sm_90")
    print(f"{built.entry}: error {error:.1e}; {built.resources.registers} registers on sm_90")


if __name__ == "__main__":
    main()
