"""What a compile says and keeps, and how many blocks share a multiprocessor."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilus import config, debug
from tilus.compiler import run_stages
from tilus.errors import TilusError
from tilus.ir import Integer, Program
from tilus.lang import Tracer, trace
from tilus.occupancy import MULTIPROCESSORS, blocks_per_multiprocessor
from tilus.runtime import sass
from tilus.target import ARCHITECTURES, target
from tilus.text import from_text

ROOT = Path(__file__).parents[2]
COMPILES = """
from tilus import Integer, compile, trace
compile(trace("waits", lambda t, n: t.synchronize(), (Integer("n"),), lambda n: (n, 1, 1), 96))
print("done")
"""
needs_disassembler = pytest.mark.skipif(sass.found() is None, reason="no nvdisasm here")


def run(**settings: str) -> subprocess.CompletedProcess[str]:
    """A compile in a process of its own, with these settings."""
    names = {v.name for v in config.VARIABLES}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run([sys.executable, "-c", COMPILES], cwd=ROOT, env=clean | settings,
                          capture_output=True, text=True, check=False)  # fmt: skip


@pytest.fixture(scope="module")
def rungs() -> list[str]:
    """What each level says, from 0 on; all of it on stderr."""
    runs = [run(TILUS_DEBUG=str(level)) for level in range(6)]
    assert [done.stdout for done in runs] == ["done\n"] * 6
    return [done.stderr for done in runs]


def test_each_rung_says_more_than_the_one_below(rungs: list[str]) -> None:
    assert rungs[0] == ""
    assert rungs[1].startswith("waits sm_90: ") and rungs[1].count("\n") == 1
    assert " registers, 0 shared bytes, " in rungs[1] and "nvrtc 0." in rungs[1]
    said = ("waits sm_90: ", "  program ", "def waits(n: integer(1)):", "KERNEL(96, 1) tilus_waits",
            "registers a thread, 0 bytes spilled; 96 threads")  # fmt: skip
    for level, rung in enumerate(rungs):
        assert [text in rung for text in said] == [k < level for k in range(5)]


def test_stages_are_kept_in_a_folder_of_the_kernel(tmp_path: Path) -> None:
    done = run(TILUS_KEEP="ir, cuda,ptx,resources", TILUS_OUT=str(tmp_path / "kept"))
    assert (done.stdout, done.stderr) == ("done\n", "")
    files = {path.name: path.read_text() for path in (tmp_path / "kept/waits").iterdir()}
    assert sorted(files) == ["cuda", "ir", "ptx", "resources"]
    assert from_text(files["ir"]).threads == 96
    assert "tilus_waits" in files["cuda"] and ".target sm_90" in files["ptx"]
    assert "bar.sync" in files["ptx"] and "blocks a multiprocessor" in files["resources"]


@needs_disassembler
def test_sass_is_kept_too(tmp_path: Path) -> None:
    run(TILUS_KEEP="sass", TILUS_OUT=str(tmp_path))
    code = sass.functions((tmp_path / "waits/sass").read_text())
    assert any(line.startswith("BAR.SYNC") for line in code["tilus_waits"])
    assert code["tilus_waits"].count("EXIT") == 1


def test_without_a_disassembler_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sass, "found", lambda: None)
    sass.disassembler.cache_clear()
    with pytest.raises(TilusError, match="needs nvdisasm: pip install triton"):
        sass.disassemble(b"")
    monkeypatch.undo()
    sass.disassembler.cache_clear()


def test_a_stage_that_is_not_there_gets_a_sentence() -> None:
    done = run(TILUS_KEEP="ir,asm")
    assert done.returncode and "no stage 'asm': there are ir, cuda, ptx, sass" in done.stderr


def test_a_level_that_is_not_there_gets_a_sentence() -> None:
    assert "TILUS_DEBUG=6: there are the levels 0 to 5" in run(TILUS_DEBUG="6").stderr
    assert run(TILUS_DEBUG="").stderr == ""


def waiting(threads: int) -> Program:
    def waits(t: Tracer, n) -> None:
        for _ in t.range(0, n):
            t.synchronize()

    return trace("waits", waits, (Integer("n"),), lambda n: (n, 1, 1), threads)


def test_a_list_of_passes_is_run_in_order_and_shown() -> None:
    passes = (
        ("same", lambda program: program),
        ("empty", lambda program: replace(program, body=())),
        ("narrow", lambda program: replace(program, threads=program.threads // 2)),
    )
    program = waiting(64)
    steps = debug.run_passes(program, passes)
    assert [step.name for step in steps] == ["program", "same", "empty", "narrow"]
    assert [len(step.program.body) for step in steps] == [1, 1, 0, 0]
    assert steps[0].program == program and steps[-1].program.threads == 32
    done = run_stages(program)._replace(steps=steps)
    sizes = [line.split()[-2:] for line in debug.pass_lines(done).splitlines()]
    assert sizes == [["2", "statements"]] * 2 + [["0", "statements"]] * 2
    texts = debug.program_texts(done)
    assert [line for line in texts.splitlines() if line.startswith("# ")] == [
        "# program", "# empty", "# narrow"
    ]  # fmt: skip
    assert debug.stage(done, "ir").startswith("@program(grid=(n, 1, 1), threads=32")


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks"),
    [
        ("sm_80", 1024, 32, 0, (2, "registers")),
        ("sm_80", 1024, 33, 0, (1, "registers")),
        ("sm_80", 128, 168, 0, (3, "registers")),
        ("sm_86", 256, 32, 0, (6, "threads")),
        ("sm_86", 32, 16, 0, (16, "blocks")),
        ("sm_89", 32, 16, 0, (24, "blocks")),
        ("sm_90", 128, 96, 50304, (4, "shared memory")),
        ("sm_90a", 384, 168, 227 << 10, (1, "registers")),
        ("sm_90", 128, 40, (227 << 10) + 1, (0, "shared memory")),
        ("sm_120a", 256, 64, 49 << 10, (2, "shared memory")),
    ],
)
def test_known_occupancies(
    arch: str, threads: int, registers: int, shared: int, blocks: tuple[int, str]
) -> None:
    assert blocks_per_multiprocessor(arch, threads, registers, shared) == blocks


def placed(arch: str, threads: int, registers: int, shared: int) -> int:
    """Blocks put onto a multiprocessor one by one, each warp where most registers are free."""
    chip = MULTIPROCESSORS[target(arch).number]
    quarters, left, warps_left = [512 // 8] * 4, chip.shared_bytes, chip.threads // 32
    each, count = -(-registers * 32 // 256), 0  # in units of 256, of which a quarter has 64
    while count < chip.blocks:
        left -= -(-(shared + 1024) // 128) * 128
        for _ in range(-(-threads // 32)):
            warps_left -= 1
            quarters[quarters.index(max(quarters))] -= each
        if left < 0 or warps_left < 0 or min(quarters) < 0:
            break
        count += 1
    return count


@settings(deadline=None, derandomize=True)
@given(st.sampled_from(ARCHITECTURES), st.integers(1, 1024), st.integers(1, 255),
       st.integers(0, 228 << 10))  # fmt: skip
def test_occupancy_is_what_fits_block_by_block(
    arch: str, threads: int, registers: int, shared: int
) -> None:
    fits, _ = blocks_per_multiprocessor(arch, threads, registers, shared)
    assert fits == placed(arch, threads, registers, shared)
