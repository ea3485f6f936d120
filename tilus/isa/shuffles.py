"""Registers handed from lane to lane of a warp."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilus.dtypes import f16, f32, u8
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Effect, Inst, Known, Tile, Writer, every, instruction
from tilus.layout import Layout, local, reduce, spatial

WARP = 32


class Way(NamedTuple):
    """Which lane `lane` takes the registers of: the meaning, on NumPy arrays, and the code."""

    run: Callable[[Any, int], Any]
    code: str


SHUFFLES = {
    "xor": Way(lambda lane, by: lane ^ by, "{0} ^ {1}"),
    "down": Way(lambda lane, by: np.where(lane + by < WARP, lane + by, lane),
                "{0} + {1} < 32 ? {0} + {1} : {0}"),
    "up": Way(lambda lane, by: np.where(lane >= by, lane - by, lane),
              "{0} >= {1} ? {0} - {1} : {0}"),
    "from": Way(lambda lane, by: np.full_like(lane, by), "{1}"),
}  # fmt: skip


@instruction
class Shuffle(Inst):
    """The tile that results where each thread takes over all registers of another of its warp.

    Lane l takes those of lane l ^ `by` (xor), l + `by` (down), l - `by` (up; both keep their own
    where there is no such lane), or `by` (from). So the element at layout(t, r) becomes the one
    that was at layout(thread that t takes from, r); replicas must agree on it (PTX ISA 9.7.9.6,
    shfl.sync).
    """

    src: Register
    way: str
    by: int
    effect = Effect.SYNC

    def result(self) -> Register:
        if self.way not in SHUFFLES or not 0 <= self.by < WARP:
            raise TilusError(
                f"shuffle {self.way!r} by {self.by}: there are {', '.join(SHUFFLES)}, by 0 to 31"
            )
        layout = self.src.layout
        if self.undecided:
            return Register("", self.src.dtype, layout)
        if layout.threads % WARP:
            raise TilusError(f"shuffle: {layout.threads} threads are no whole warps: {layout}")
        taken = np.zeros(layout.shape, np.int64)
        index, source = every(layout), self.sources()
        number = np.ravel_multi_index(index, layout.shape)
        taken[index] = number[source]
        if not np.array_equal(taken[index], number[source]):
            raise TilusError(
                f"shuffle: threads that hold the same element of {layout} would take different"
                " ones: shuffle among lanes that hold different elements"
            )
        return Register("", self.src.dtype, layout)

    def relates(self, known: Known) -> Known:
        names = ("", self.src.name)
        return {a: known[b] for a, b in (names, names[::-1]) if b in known}

    def sources(self) -> Tile:
        """The thread that each thread takes from."""
        thread = np.arange(self.src.layout.threads)
        taken: Tile = thread // WARP * WARP + SHUFFLES[self.way].run(thread % WARP, self.by)
        return taken

    def run(self, block: Block, src: Tile) -> Tile:
        out, index = np.empty_like(src), every(self.src.layout)
        out[index] = src[index][self.sources()]
        return out

    def cuda(self, cu: Writer, out: Register) -> None:
        lane = SHUFFLES[self.way].code.format("(int)(thread % 32)", self.by)
        for w in range(-(-out.bits_held // 32)):
            word = f"{cu.words(self.src)}[{w}]"
            cu.line(f"{cu.words(out)}[{w}] = shuffle<{cu.threads}>({word}, {lane});")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile: Layout = spatial(2, 1) * spatial(8, 4) * local(1, 2)
        return [*(cls(Register("r0", f32, tile), way, 5) for way in SHUFFLES),
                cls(Register("r0", f16, tile), "xor", 16), cls(Register("r0", u8, tile), "up", 1),
                cls(Register("r0", f16, reduce(tile, (1,))), "down", 4)]  # fmt: skip
