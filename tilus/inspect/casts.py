"""What a cast costs: instructions an element, counted in the code that the chip runs."""

import re

from tilus.codegen import generate
from tilus.dtypes import DType, u32
from tilus.errors import TilusError
from tilus.ir import Pointer, Program, Var
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial
from tilus.runtime import nvrtc, sass

ELEMENTS = 32  # a thread; whole words, and pairs for the fast ways, whatever the width
MOVES = ("LD", "ST", "NOP")  # instructions that bring, take, or do nothing
ENTRY = "casts"  # the name of the translation unit


def casting(source: DType, target: DType, elements: int) -> Program:
    """A kernel whose threads cast so many elements each: words in, words out."""

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        words_in, words_out = (elements * of.bits // 32 for of in (source, target))
        held = spatial(32, 1) * local(1, words_in)
        raw = t.load_global(
            t.view_global(x, u32, (32, words_in), (words_in, 1)), (0, 0), held, check=()
        )
        made = t.cast(t.view(raw, source, spatial(32, 1) * local(1, elements)), target)
        done = t.view(made, u32, spatial(32, 1) * local(1, words_out))
        t.store_global(
            t.view_global(y, u32, (32, words_out), (words_out, 1)), done, (0, 0), check=()
        )

    name = f"{source.name}_to_{target.name}_{elements}"
    parameters = (Pointer("x", u32), Pointer("y", u32))
    return trace(name, kernel, parameters, lambda *_: (1, 1, 1), 32)


def way(source: DType, target: DType, arch: str) -> str:
    """The prelude's function that casts two elements at once; empty where there is no code."""
    try:
        text = generate(casting(source, target, ELEMENTS), arch).text
    except TilusError:
        return ""
    cast, _, _ = text.partition("// cast\n")[2].partition("//")
    pairs = re.search(r"= (\w+)[<(]", cast)
    return pairs[1] if pairs else "one by one"


def costs(pairs: list[tuple[DType, DType]], arch: str) -> dict[tuple[DType, DType], float]:
    """Instructions an element of each (source, target), moves to and from memory left out.

    What a kernel for twice as many elements has more is what the elements cost; what every kernel
    has cancels out.
    """
    sources = {
        (pair, n): generate(casting(*pair, n), arch)
        for pair in pairs
        for n in (ELEMENTS, 2 * ELEMENTS)
    }
    text = "\n".join(source.text for source in sources.values())
    code = sass.functions(sass.disassemble(nvrtc.compile_cubin(text, ENTRY, arch, 0).cubin))
    counts = {key: work(code[source.entry]) for key, source in sources.items()}
    return {
        pair: (counts[pair, 2 * ELEMENTS] - counts[pair, ELEMENTS]) / ELEMENTS for pair in pairs
    }


def work(code: list[str]) -> int:
    """How many instructions do more than move."""
    return sum(not operation(line).startswith(MOVES) for line in code)


def operation(line: str) -> str:
    """The name of an instruction, its predicate left out."""
    return line.split()[1] if line.startswith("@") else line.split()[0]
