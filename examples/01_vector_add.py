"""out = x + y: each block adds one tile, each thread four elements of it.

A layout says which thread holds which element: in `local(4) * spatial(128)` there are, four times,
128 threads side by side with an element each, so that neighbours in memory are read together. The
last tile leaves the vectors: what is outside reads as zero, and is not written.
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

TILE = local(4) * spatial(128)
(SIZE,) = TILE.shape


def vector_add(t: Tracer, x: Var, y: Var, out: Var, n: Var) -> None:
    at = (t.blocks[0] * SIZE,)
    a = t.load_global(t.view_global(x, f32, (n,)), at, TILE)
    b = t.load_global(t.view_global(y, f32, (n,)), at, TILE)
    t.store_global(t.view_global(out, f32, (n,)), t.add(a, b), at)


def program() -> Program:
    return trace(
        "vector_add",
        vector_add,
        (Pointer("x", f32), Pointer("y", f32), Pointer("out", f32), Integer("n")),
        grid=lambda x, y, out, n: (ceil_div(n, SIZE), 1, 1),
        threads=TILE.threads,
    )


def case(rng: np.random.Generator, n: int = 1001) -> tuple[dict, np.ndarray]:
    """Arguments, and what `out` must become."""
    x, y = rng.standard_normal((2, n), np.float32)
    return {"x": x, "y": y, "out": np.zeros(n, np.float32), "n": n}, x + y


def main() -> None:
    given, want = case(np.random.default_rng(0))
    run_on_host(program(), given)
    error = np.linalg.norm(given["out"] - want) / np.linalg.norm(want)
    built = compile(program(), "sm_90")
    print(f"{built.entry}: error {error:.1e}; {built.resources.registers} registers on sm_90")


if __name__ == "__main__":
    main()
