"""Attention of one query per head over a cache of 4-bit keys and values, with one softmax pass.

out = softmax(q @ keys.T) @ values, where keys and values are int4 with a scale a token. A block
takes a head, and its tile of 64 tokens walks along the cache. Each row of the tile is a softmax of
its own, over every 64th token: its largest score so far, the sum of exponentials and the weighted
sum of values, both relative to that largest score, and brought to a larger one when that comes.
So rows need nothing of each other until the end, where they are brought to one largest score.
"""

from typing import Any

import numpy as np

from tilus import (
    Integer,
    Pointer,
    Program,
    Scalar,
    Tracer,
    Var,
    cast_layout,
    ceil_div,
    compile,
    dtype,
    f16,
    f32,
    local,
    reduce,
    run_on_host,
    spatial,
    trace,
)

I4 = dtype("int4")
CODES = local(4, 1) * spatial(16, 8) * local(1, 8)  # [64, 64]: eight threads a token, a word each
TILE = cast_layout(I4, f16, CODES)  # what a fast cast makes of it
TOKEN, CHANNEL = reduce(TILE, [1]), reduce(TILE, [0])  # [64, 1] and [1, 64]
TOKENS, CHANNELS = TILE.shape
LOWEST = -1e30  # of no token: finite, for the difference of two of them must be 0


def flash_decode(
    t: Tracer, q: Var, keys: Var, values: Var, scales: Var, out: Var, heads: Var, tokens: Var
) -> None:
    head = t.blocks[0]
    queries = t.view_global(q, f32, (heads, CHANNELS))
    cache = [t.view_global(x, I4, (heads, tokens, CHANNELS)) for x in (keys, values)]
    scale_of = t.view_global(scales, f16, (heads, 2, tokens, 1))

    def load(which: int, start: Scalar) -> tuple[Any, Any]:
        """Codes as numbers, and the scales of their tokens."""
        codes = t.load_global(cache[which], (head, start, 0), CODES)
        scale = t.load_global(scale_of, (head, which, start, 0), TOKEN)
        return t.cast(t.cast(codes, f16), f32), t.cast(scale, f32)

    query = t.load_global(queries, (head, 0), CHANNEL)
    lowest = t.allocate_register(f32, TOKEN, LOWEST)
    largest = t.allocate_register(f32, TOKEN, LOWEST)
    total = t.allocate_register(f32, TOKEN)
    sums = t.allocate_register(f32, TILE)
    for turn in t.range(0, ceil_div(tokens, TOKENS)):
        start = turn * TOKENS
        key, key_scale = load(0, start)
        score = t.mul(t.reduce(t.mul(key, query), 1, "sum"), key_scale)
        there = t.inside(scale_of, (head, 0, start, 0), TOKEN)
        score = t.where(there, score, lowest)
        larger = t.max(largest, score)
        shrink, weight = t.exp(t.sub(largest, larger)), t.exp(t.sub(score, larger))
        value, value_scale = load(1, start)
        t.assign(sums, t.fma(value, t.mul(weight, value_scale), t.mul(sums, shrink)))
        t.assign(total, t.fma(total, shrink, weight))
        t.assign(largest, larger)
    share = t.exp(t.sub(largest, t.reduce(largest, 0, "max")))
    whole = t.reduce(t.mul(total, share), 0, "sum")
    found = t.div(t.reduce(t.mul(sums, share), 0, "sum"), whole)
    t.store_global(t.view_global(out, f32, (heads, CHANNELS)), found, (head, 0))


def program() -> Program:
    return trace(
        "flash_decode",
        flash_decode,
        (
            Pointer("q", f32), Pointer("keys", I4), Pointer("values", I4), Pointer("scales", f16),
            Pointer("out", f32), Integer("heads"), Integer("tokens"),
        ),
        grid=lambda q, keys, values, scales, out, heads, tokens: (heads, 1, 1),
        threads=TILE.threads,
    )  # fmt: skip


def case(rng: np.random.Generator, heads: int = 3, tokens: int = 150) -> tuple[dict, np.ndarray]:
    """Arguments, and what `out` must become."""
    q = rng.standard_normal((heads, 1, CHANNELS), np.float32)
    codes = I4.encode(rng.standard_normal((2, heads, tokens, CHANNELS)) * 3)
    scales = rng.uniform(0.2, 0.4, (heads, 2, tokens, 1)).astype(np.float16)
    keys, values = I4.decode(codes) * scales.swapaxes(0, 1)
    scores = q @ keys.swapaxes(1, 2)
    grown = np.exp(scores - scores.max(axis=2, keepdims=True))
    want = grown / grown.sum(axis=2, keepdims=True) @ values
    given = {
        "q": q.ravel(), "keys": I4.pack(codes[0]), "values": I4.pack(codes[1]),
        "scales": scales.ravel(), "out": np.zeros(heads * CHANNELS, np.float32),
        "heads": heads, "tokens": tokens,
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
