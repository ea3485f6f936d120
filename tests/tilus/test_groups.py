"""Instructions inside a group of threads: the same as in a block of as many."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tilus.harness import Case
from tests.tilus.test_isa import CASES, SAMPLES, copied, some
from tilus import codegen
from tilus.interp import interpret
from tilus.ir import Do, ThreadGroup, walk
from tilus.isa import ISA, Inst
from tilus.runtime import host
from tilus.target import HOST

WARPGROUP = 128


def in_a_group(case: Case) -> Case:
    """All of it in a group behind the first threads of a larger block."""
    program = case.program
    group = ThreadGroup(WARPGROUP, program.threads, program.body)
    larger = replace(program, threads=program.threads + 2 * WARPGROUP, body=(group,))
    return Case(larger, case.arguments, case.names)


def fits(case: Case) -> bool:
    """Whether it is of whole warps, with nothing that the whole block must take part in."""
    done = [s.instruction for s in walk(case.program.body) if isinstance(s, Do)]
    return case.program.threads % 32 == 0 and not any(
        isinstance(inst, Inst) and inst.whole_block for inst in done
    )


NAMES = [name for cls in ISA.values() for name in some(cls)[:2] if fits(CASES[name])]
GROUPS = {name: in_a_group(CASES[name]) for name in NAMES}


@pytest.fixture(scope="module")
def library() -> Path:
    text = ""
    for case in GROUPS.values():
        source = codegen.generate(case.program, HOST)
        text += source.text + codegen.host_entry(case.program, source)
    return host.build(text, "-O0")


def test_every_instruction_is_tried_that_a_group_can_do() -> None:
    """But those at barriers, which the whole block makes ready: test_hopper has groups of them."""
    tried = {SAMPLES[name].name for name in NAMES}
    sampled = {
        sample.name
        for sample in SAMPLES.values()
        if not sample.whole_block and "barriers" not in vars(sample)
    }
    assert tried == sampled


@pytest.mark.parametrize("backwards", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("name", NAMES)
def test_a_group_does_what_a_block_does(name: str, backwards: bool, library: Path) -> None:
    alone, mean, made = (copied(CASES[name]) for _ in range(3))
    interpret(CASES[name].program, alone)
    interpret(GROUPS[name].program, mean)
    host.run(library, name, list(made.values()), (1, 1, 1), backwards)
    for array in CASES[name].names:
        np.testing.assert_array_equal(mean[array], alone[array], err_msg=array)
        np.testing.assert_array_equal(made[array], alone[array], err_msg=array)
