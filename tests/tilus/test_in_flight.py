"""What products by warpgroups still read, the C++ compiler must not give to others.

It takes a product for something that is done at once, so it may put a number that is computed
behind it into a register that it reads, before the wait that ends it. Nothing tells of that but the
PTX (PTX ISA 9.7.15.7, wgmma.mma_async: registers must not be accessed until wgmma.wait_group).
"""

import re
from collections.abc import Iterator

import pytest

import tilus
from tilus.compiler import text_of
from tilus.kernels import quantized_matmul as q
from tilus.runtime import nvrtc

N = 57344
NO_RESULT = ("st.", "red.", "cp.", "bra", "bar.", "ret", "stmatrix", "mbarrier.arrive.", "fence")
PRODUCT = re.compile(r"wgmma\.mma_async\S+ \{[^}]*\}, \{([^}]*)\}")
WAIT = re.compile(r"wgmma\.wait_group\S+ (\d+)")
OPERATION = re.compile(r"(?:@!?%p\d+\s+)?([a-z][\w.:]*)\s+(\{[^}]*\}|%\w+)")


def overwritten(ptx: str) -> list[str]:
    """The statements that write what a product in flight reads, in the order of the text."""
    groups: list[set[str]] = [set()]  # what each committed group reads, and the one begun
    found = []
    for statement in statements(ptx):
        if product := PRODUCT.search(statement):
            groups[-1] |= registers(product[1])
        elif statement.startswith("wgmma.commit_group"):
            groups.append(set())
        elif wait := WAIT.match(statement):
            groups = groups[-1 - int(wait[1]) :]
        elif written(statement) & set().union(*groups):
            found.append(statement)
    return found


def statements(ptx: str) -> Iterator[str]:
    """One by one; a product in one piece."""
    for line in ptx.splitlines():
        if "wgmma.mma_async" in line:
            yield line
        else:
            yield from (part.strip(" \t{}") for part in line.split(";"))


def written(statement: str) -> set[str]:
    """The registers that hold its result."""
    operation = OPERATION.match(statement)
    if operation is None or operation[1].startswith(NO_RESULT):
        return set()
    return registers(operation[2])


def registers(operand: str) -> set[str]:
    return set(re.findall(r"%r\d+", operand))


def test_what_is_overwritten_is_found() -> None:
    product = "wgmma.mma_async.sync {%r1, %r2}, {%r7, %r8}, %rd1, 1;\nwgmma.commit_group.sync;\n"
    other = product.replace("%r7, %r8", "%r5, %r6")
    wait = "wgmma.wait_group.sync.aligned {};\n"
    for harmless in (
        product + wait.format(0) + "lop3.b32 %r7, %r3, %r4, 0;",
        product + other + wait.format(1) + "lop3.b32 %r7, %r3, %r4, 0;",
        product + "st.shared.v2.u32 [%rd1], {%r7, %r8};",
    ):
        assert not overwritten(harmless)
    for writes in ("lop3.b32 %r7, %r3, %r4, 0;", "ld.shared.v2.u32 {%r3, %r8}, [%rd1];",
                   "@%p1 mov.u32 %r8, 0;", "{mul.f16x2 %r7,%r3,%r4; }"):  # fmt: skip
        assert len(overwritten(product + writes + wait.format(0))) == 1
        assert len(overwritten(other + product + wait.format(1) + writes)) == 1


@pytest.mark.parametrize("m", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize(("b_dtype", "group_size", "zeros"), [
    ("uint4", 128, True), ("float6_e3m2", -1, False), ("int8", -1, False), ("uint2", 128, True),
])  # fmt: skip
def test_no_product_loses_what_it_reads(b_dtype: str, group_size: int, zeros: bool, m: int) -> None:
    plans = [p for p in q.schedules(b_dtype, group_size, m, N, "sm_90a") if p["warpgroups"]]
    for plan in plans:
        program = q.program(
            b_dtype=tilus.dtype(b_dtype).name, group_size=group_size, zeros=zeros,
            k_multiple=1024, n_multiple=3584, **plan,
        )  # fmt: skip
        source = text_of(program, "sm_90a")
        ptx = nvrtc.compile_ptx(source.text, source.entry, "sm_90a")
        assert PRODUCT.search(ptx)
        assert not overwritten(ptx)
