"""What a program becomes on each chip: conversions by the chip itself mean what the others mean."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tilus.harness import Case
from tests.tilus.test_isa import CASES, SAMPLES, copied, named, same_numbers
from tilus import codegen
from tilus.casts import FAST, fast_row
from tilus.dtypes import ALL, f16
from tilus.interp import interpret
from tilus.isa import ISA
from tilus.runtime import host
from tilus.runtime.nvrtc import compile_cubin
from tilus.target import ARCHITECTURES, OLDEST, target

HARDWARE = [
    t for t in ALL if t.bits <= 8 and any(r.accepts(t) for r in FAST if OLDEST.name not in r.needs)
]


def cast_of(source: object) -> Case:
    """The sample that casts all codes of a format to float16."""
    name = next(
        name
        for name, sample in SAMPLES.items()
        if isinstance(sample, ISA["cast"])
        and (sample.operands[0].dtype, vars(sample)["dtype"]) == (source, f16)
    )
    return CASES[name]


def cases() -> Iterator[tuple[str, str, Case]]:
    """The library's names, the chips, and what runs there."""
    for source in HARDWARE:
        for arch in ARCHITECTURES:
            name = f"cast_{source}_{arch}"
            yield name, arch, named(cast_of(source), name)


@pytest.fixture(scope="module")
def library() -> Path:
    text = ""
    for _, arch, case in cases():
        source = codegen.generate(case.program, arch)
        text += source.text + codegen.host_entry(case.program, source)
    return host.build(text, "-O0")


def test_the_chips_convert_what_they_can() -> None:
    converts = {
        arch: {t.name for t in HARDWARE if fast_row(t, f16, target(arch)) != fast_row(t, f16)}
        for arch in ARCHITECTURES
    }
    eight = {"float8_e4m3", "float8_e5m2"}
    bounded = {"float7_e5m1"}  # by a minimum
    assert (converts["sm_80"], converts["sm_86"]) == (set(), bounded)
    assert converts["sm_89"] == converts["sm_90"] == converts["sm_90a"] == eight | bounded
    assert converts["sm_100a"] == converts["sm_120a"] == eight | bounded | {
        "float4_e2m1", "float6_e3m2", "float6_e2m3",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "arch", "case"), list(cases()), ids=lambda v: str(v)[:24])
def test_every_chip_gives_the_same_numbers_in_the_same_order(
    name: str, arch: str, case: Case, library: Path
) -> None:
    want, got = copied(case), copied(case)
    interpret(case.program, want)
    host.run(library, name, list(got.values()), (1, 1, 1))
    same_numbers(f16, got["out0_"], want["out0_"], 0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_conversions_compile(arch: str) -> None:
    sources = [codegen.generate(case.program, arch) for _, on, case in cases() if on == arch]
    made = compile_cubin("".join(s.text for s in sources), sources[0].entry, arch, 0)
    assert made.resources.spill_bytes == 0
