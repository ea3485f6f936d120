"""Every instruction, from its own samples. A new instruction is tested by existing.

Each sample runs alone in a kernel twice, by its meaning on whole tiles and as generated text on
this machine's processor; whatever it returned or may have changed must be the same bits.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.tilus.harness import Case, case_of
from tilus import codegen
from tilus.casts import fast_cast
from tilus.dtypes import ALL, DType, bf16, f16
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Do, Program, Register, walk
from tilus.isa import ISA, Inst
from tilus.isa.elementwise import OPS
from tilus.jsonform import from_json, to_json
from tilus.runtime import host
from tilus.runtime.nvrtc import compile_cubin
from tilus.target import ARCHITECTURES, HOST
from tilus.target import target as target_of
from tilus.text import from_text, to_text

SAMPLES = {
    f"{name}_{i}": sample for name, cls in ISA.items() for i, sample in enumerate(cls.samples())
}


def named(case: Case, name: str) -> Case:
    program = case.program
    fields = (program.parameters, program.grid, program.threads, program.body)
    return Case(Program(name, *fields), case.arguments, case.names)


CASES = {
    name: named(case_of(sample, np.random.default_rng(i)), name)
    for i, (name, sample) in enumerate(SAMPLES.items())
}


@pytest.fixture(scope="session")
def library() -> Path:
    """All samples as one library."""
    text = ""
    for case in CASES.values():
        source = codegen.generate(case.program, HOST)
        text += source.text + codegen.host_entry(case.program, source)
    return host.build(text, "-O0")


def copied(case: Case) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in case.arguments.items()}


@pytest.mark.parametrize("backwards", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("name", CASES)
def test_generated_text_agrees_with_run(name: str, backwards: bool, library: Path) -> None:
    case = CASES[name]
    want, got = copied(case), copied(case)
    interpret(case.program, want)
    found = host.run(library, name, list(got.values()), (1, 1, 1), backwards, watched=True)
    assert found == "", "accesses that are out of order or out of bounds"
    sample = SAMPLES[name]
    for array in case.names:
        out = sample.result()
        if array.startswith("out0_") and isinstance(out, Register) and rounds(out.dtype):
            same_numbers(out.dtype, got[array], want[array], tolerance(sample, out.dtype))
        else:
            np.testing.assert_array_equal(got[array], want[array], err_msg=array)


def tolerance(sample: Inst, dtype: DType) -> float:
    """How far off the numbers may be: the processor's own exp is not the chip's."""
    op = OPS.get(vars(sample).get("op", ""))
    return 2.0 ** (2 - dtype.mantissa) if op and op.nearly else 0.0


def rounds(dtype: DType) -> bool:
    return dtype.kind == "float" and dtype.bits > 8


def same_numbers(dtype: DType, got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    """The same codes, where any NaN is as good as another."""
    numbers = [dtype.values(bits.view(dtype.carrier)).astype(np.float64) for bits in (got, want)]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=tolerance, atol=0)
    np.testing.assert_array_equal(*(np.signbit(n) | np.isnan(n) for n in numbers))


@pytest.mark.parametrize("name", SAMPLES)
def test_result_is_what_run_returns(name: str) -> None:
    """Every value that a program names has the type that `result` promised."""
    for statement in walk(CASES[name].program.body):
        if isinstance(statement, Do) and isinstance(statement.out, Register):
            assert isinstance(statement.instruction, Inst)
            assert statement.instruction.result() == Register(
                "", statement.out.dtype, statement.out.layout
            )


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_operands_are_distinct(name: str) -> None:
    """`sub(x, x)` cannot tell a - b from b - a."""
    operands = SAMPLES[name].operands
    assert len(set(operands)) == len(operands)


@pytest.mark.parametrize("name", ISA)
def test_instruction_is_documented_and_sampled(name: str) -> None:
    doc = ISA[name].__doc__
    assert doc and doc.strip().endswith((".", ")"))
    mentioned = any(
        isinstance(s, Do) and isinstance(s.instruction, ISA[name])
        for case in CASES.values()
        for s in walk(case.program.body)
    )
    assert mentioned, f"no sample performs {name}"


@pytest.mark.parametrize("name", CASES)
def test_program_survives_text_and_json(name: str) -> None:
    program = CASES[name].program
    assert from_text(to_text(program)) == program
    assert from_json(to_json(program)) == program


def some(cls: type[Inst]) -> list[str]:
    """A dozen samples of an instruction, spread over all that it has."""
    names = [name for name, sample in SAMPLES.items() if type(sample) is cls]
    return names[:: -(-len(names) // 12) or 1]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_cuda_compiles(arch: str) -> None:
    """Samples of every instruction in one text; what needs another chip is refused in words."""
    sources = []
    for name in (name for cls in ISA.values() for name in some(cls)):
        try:
            sources.append(codegen.generate(CASES[name].program, arch))
        except TilusError as error:
            assert re.search(rf"needs .* compiled for {arch}|on {arch}", str(error))
        else:
            assert any(target_of(arch).supports(needed) for needed in SAMPLES[name].needs)
    made = compile_cubin("".join(s.text for s in sources), sources[0].entry, arch, 0)
    assert made.cubin[:4] == b"\x7fELF"
    assert made.resources.spill_bytes == 0


@pytest.mark.parametrize("target", [f16, bf16], ids=str)
@pytest.mark.parametrize("source", [t for t in ALL if t.bits <= 8], ids=str)
def test_every_code_of_every_format_is_cast_the_fast_way(source: DType, target: DType) -> None:
    """The sample that the tests above run both ways holds each code, and takes the fast way."""
    name, sample = next(
        (name, sample)
        for name, sample in SAMPLES.items()
        if isinstance(sample, ISA["cast"])
        and (sample.operands[0].dtype, vars(sample)["dtype"]) == (source, target)
    )
    held = np.unpackbits(CASES[name].arguments["in0_"], bitorder="little")
    codes = held.reshape(-1, source.bits) @ (1 << np.arange(source.bits))
    assert set(codes) == set(range(1 << source.bits))
    register = sample.operands[0]
    assert isinstance(register, Register)
    assert fast_cast(source, target, register.layout.registers)
