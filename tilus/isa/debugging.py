"""Looking at a running kernel, and stopping it."""

import numpy as np

from tilus.dtypes import bf16, f16, f32, i32, u32, uint
from tilus.errors import TilusError
from tilus.ir import Register, Scalar
from tilus.isa.addressing import THREAD, beside, corner, threads_below
from tilus.isa.base import Block, Effect, Inst, Tile, Writer, instruction
from tilus.isa.spelling import arithmetic, kind
from tilus.isa.synchronization import Synchronize
from tilus.layout import local, reduce, spatial


@instruction
class PrintTensor(Inst):
    """Print the tile `src` under a `title`, row by row, and which block it is of.

    Thread 0 prints, with 9 digits; the block synchronises. (On a GPU the text comes when the launch
    has ended and the program asks for it, and blocks print in any order.)
    """

    src: Register
    title: str
    effect = Effect.SYNC

    def result(self) -> None:
        require_plain(self.name, self.title)

    def heading(self) -> str:
        return f"{self.title}: {self.src.dtype} {self.src.shape}"

    def run(self, block: Block, src: Tile) -> None:
        values = self.src.dtype.values(src)
        rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
        spelled = "%.9g" if self.src.dtype.kind == "float" else "%d"
        lines = [" ".join(spelled % value for value in row) for row in rows]
        x, y, z = block.index
        block.print("\n".join([f"{self.heading()} of block {x} {y} {z}", *lines]))

    def cuda(self, cu: Writer, out: None) -> None:
        layout, tag, c_type = self.src.layout, kind(self.src.dtype), arithmetic(self.src.dtype)
        count = int(np.prod(layout.shape))
        columns = layout.shape[-1] if layout.rank else 1
        scratch = cu.reserve(4 * count)
        with cu.scope():
            cu.line(f"{c_type}* const shown = ({c_type}*)(shared + {scratch});")
            with cu.scope(threads_below(layout, cu)):
                first = corner(cu, "i", layout, (0,) * layout.rank)
                for r in range(layout.registers):
                    place: Scalar = 0
                    for i, n in zip(beside(first, layout, r), layout.shape, strict=True):
                        place = place * n + i
                    cu.line(f"shown[{cu.expr(place)}] = get<{tag}, {r}>({cu.words(self.src)});")
            Synchronize().cuda(cu, None)
            block = "block_x, block_y, block_z"
            call = f'print_tile("{self.heading()}", {block}, shown, {count}, {columns})'
            cu.line(f"if ({cu.expr(THREAD)} == 0) {call};")
            Synchronize().cuda(cu, None)

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = spatial(8, 4) * local(1, 2)
        types = (f16, bf16, f32, i32, u32, uint(4))
        return [*(cls(Register("r0", t, tile * local(1, 4)), f"a tile of {t}") for t in types),
                cls(Register("r0", f32, reduce(tile, (1,))), "sums")]  # fmt: skip


@instruction
class Assert_(Inst):  # `assert` is a word of Python
    """Stop the kernel with `message` unless `condition` holds.

    The interpreter and a run on the host raise a TilusError; a GPU prints the message and traps, so
    that the launch fails.
    """

    condition: Scalar
    message: str
    effect = Effect.SYNC

    def result(self) -> None:
        require_plain(self.name, self.message)

    def run(self, block: Block) -> None:
        if not self.condition:
            raise TilusError(f"assert_: {self.message}")

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line(f'assert_that({cu.expr(self.condition)}, "{self.message}", thread == 0);')

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(1, "one is true")]


@instruction
class Exit(Inst):
    """The block ends here; all its threads must come to this."""

    effect = Effect.SYNC
    whole_block = True

    def result(self) -> None:
        return None

    def run(self, block: Block) -> None:
        block.exit()

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line("return;")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls()]


def require_plain(name: str, text: str) -> None:
    """What stands between quotation marks in C as it is."""
    if not (text.isascii() and text.isprintable()) or set(text) & set('"\\%?'):
        raise TilusError(f"{name}: {text!r}: want printable ASCII without quotes, \\, % and ?")
