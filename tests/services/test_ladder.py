"""The peer ladder: what it refuses and tries, how weights are stored for it, how it is launched."""

import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import tilus
from services.executors import ladder, peer
from services.executors.base import Built, ExecutorError, schedule
from services.experiments import FIGURES, INTEGERS, plain, workload
from services.runner.bench import make_problem

TAKEN = {"uint1", "uint2", "uint4", "uint8", "int2", "int4", "int8"}
SMALL = workload("uint4", 1, 8192, 8192)


def test_it_takes_every_cell_of_the_figures_that_has_it():
    cells = [cell for number in (9, 13) for cell in FIGURES[number].cells]
    shapes = {cell.workload for cell in cells if cell.executor == "ladder"}
    assert len(shapes) == 24 + 14 - 2  # two stand in both
    for shape in shapes:
        assert ladder.refusal(shape) is None
        assert 3 <= len(ladder.candidates(shape, "sm_90")) <= 6


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (plain("uint3", 1, 8192, 8192), "not uint3"),
        (plain("int1", 1, 8192, 8192), "not int1"),
        (plain("float4_e2m1", 1, 8192, 8192), "not float4_e2m1"),
        (plain("float16", 1, 8192, 8192), "not float16"),
        (workload("int4", 1, 8192, 8192).model_copy(update={"zeros": True}), "unsigned"),
        (workload("uint4", 24, 8192, 8192), "m 24 is no multiple"),
        (workload("uint8", 4, 8192, 8192), "no product of 4 vectors"),
        (workload("uint4", 1, 8192, 100), "does not divide"),
        (workload("uint4", 16, 8208, 8192), "no tiling"),
        (SMALL.model_copy(update={"group_size": 4}), "multiple of 8"),
        (SMALL.model_copy(update={"a_dtype": "bfloat16"}), "not bfloat16"),
    ],
)
def test_what_it_does_not_take_is_refused_with_a_reason(shape, words):
    assert words in ladder.refusal(shape)


def test_of_the_integers_it_has_those_that_fill_bytes():
    assert {b for b in INTEGERS if ladder.refusal(workload(b, 16, 8192, 8192)) is None} == TAKEN


@pytest.mark.parametrize("m", [1, 8, 16, 32, 64, 128, 256, 12288])
def test_its_tilings_cut_the_problem_without_a_rest(m):
    shape = workload("uint4", m, 57344, 8192)
    specs = ladder.candidates(shape, "sm_90")
    assert len({ladder.key(spec) for spec in specs}) == len(specs)
    for spec in specs:
        tiling = SimpleNamespace(**schedule(spec))
        assert (tiling.m, tiling.n, tiling.k, spec.arch) == (m, 57344, 8192, "sm_90a")
        if m < 16:
            assert spec.kernel == "gemv" and 8192 % (8 * tiling.lanes) == 0
            assert tiling.columns * tiling.lanes == 128
        else:
            assert spec.kernel == "mma" and m % tiling.block_m == 0
            assert tiling.block_m % tiling.warp_m == 0 == tiling.block_n % tiling.warp_n
            assert 8192 % (tiling.block_k * tiling.split_k) == 0
            assert tiling.split_k == 1 or m == 16
            stored = tiling.block_k * (2 * tiling.block_m + tiling.block_n // 2)
            assert tiling.stages * stored + 2 * tiling.block_k * tiling.block_n < 227 << 10


def test_a_key_needs_no_package_and_is_of_the_pinned_one(home):
    one, *others = ladder.candidates(SMALL, "sm_90")
    before = ladder.key(one)
    home("ladder", "bitblas", "9.9")
    assert ladder.key(one) == before and before not in map(ladder.key, others)
    with pytest.raises(ExecutorError, match=r"bitblas 9.9 is installed here, not 0\.1\.0\.post1"):
        ladder.build(one)


def test_without_the_package_nothing_is_refused_and_nothing_is_built(home):
    assert ladder.absence() == "bitblas is not installed here: bash run.sh peers"
    assert ladder.refusal(SMALL) is None
    spec = ladder.candidates(SMALL, "sm_90")[0]
    with pytest.raises(ExecutorError, match="bitblas is not installed here"):
        ladder.build(spec)
    home("ladder", "bitblas", ladder.VERSION)
    assert ladder.absence() is None


def test_it_is_built_by_its_child(home, monkeypatch):
    folder = home("ladder", "bitblas", ladder.VERSION)
    seen = []

    def ask(*asked):
        seen.append(asked)
        facts = {"entry": "f", "threads": 64, "block": "32 1 2", "shared_bytes": 9, "nvcc": "13"}
        return facts, {"kernel.cubin": b"elf", "source.cu": b"//", "libcuda.so.1": b"no"}

    monkeypatch.setattr(peer, "ask", ask)
    spec = ladder.candidates(SMALL, "sm_90")[0]
    built = ladder.build(spec)
    request = {"kernel": "gemv", "parameters": spec.parameters, "arch": "sm_90a"}
    assert seen == [(ladder.SCRIPT, request, folder)]
    assert built.load() == (b"elf", "f", 64, 9) and set(built.files) == {
        "kernel.cubin",
        "source.cu",
    }
    assert built.versions == {"bitblas": "0.1.0.post1", "nvcc": "13"}
    assert ladder.extents(built.facts, "block") == (32, 1, 2)


def codes_of(b_dtype, k, n):
    bits = tilus.dtype(b_dtype).bits
    return np.random.default_rng(3).integers(0, 2**bits, (k, n), dtype=np.uint8)


@pytest.mark.parametrize("b_dtype", sorted(TAKEN))
def test_a_thread_finds_eight_neighbours_even_places_first(b_dtype):
    bits, codes = tilus.dtype(b_dtype).bits, codes_of(b_dtype, 64, 6)
    packed = ladder.pack(codes, b_dtype)
    assert packed.dtype == np.uint8 and packed.shape == (64 * 6 * bits // 8,)
    rows = packed.reshape(6, 8, bits)  # the bytes of eight neighbours
    for column, eight in np.ndindex(6, 8):
        stored = int.from_bytes(rows[column, eight].tobytes(), "little")
        found = [(stored >> (bits * place)) & (2**bits - 1) for place in range(8)]
        order = range(8) if bits == 8 else (0, 4, 1, 5, 2, 6, 3, 7)
        half = 2 ** (bits - 1) if b_dtype in ("int2", "int4") else 0
        expected = codes[8 * eight : 8 * eight + 8, column] ^ half
        assert [found[place] for place in order] == expected.tolist()


@pytest.fixture
def launches(monkeypatch):
    """Every launch of a kernel that would be on a GPU: how it was loaded, its arguments."""
    torch = pytest.importorskip("torch", reason="tensors are PyTorch's")
    seen = []
    launcher = ModuleType("tilus.runtime.launcher")
    launcher.LoadedKernel = lambda *loaded: (
        lambda stream, grid, *rest: seen.append((loaded, grid, rest))
    )
    monkeypatch.setitem(sys.modules, "tilus.runtime.launcher", launcher)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=1))
    return seen


@pytest.mark.parametrize(
    ("b_dtype", "arguments"),
    [("uint4", "A B C Scale Zeros"), ("uint8", "A B D Scale Zeros"), ("int4", "A B C Scale")],
)
def test_it_gets_its_arguments_in_the_order_of_its_kernel(launches, b_dtype, arguments):
    problem = make_problem(workload(b_dtype, 16, 256, 1024), 2, multiprocessors=4, device="cpu")
    facts = {"entry": "f", "threads": 64, "shared_bytes": 7, "arguments": arguments}
    facts |= {"grid": "8 1 2", "block": "32 1 2"}
    spec = ladder.candidates(problem.workload, "sm_90")[0]
    ladder.prepare(problem, spec, Built({"kernel.cubin": b"elf"}, facts))(1)
    ((loaded, grid, given),) = launches
    assert loaded == (b"elf", "f", (32, 1, 2), 7) and grid == (8, 1, 2)
    assert len(given) == len(arguments.split()) and len({*given}) == len(given)
    assert given[0] == problem.activations[1].data_ptr()
    assert given[2] == problem.outputs[1].data_ptr()
    words = problem.once("ladder words", list)
    assert given[1] == words[1].data_ptr() != words[0].data_ptr()
    assert (words[1].numpy() == ladder.pack(problem.codes.numpy(), b_dtype)).all()
    groups = problem.once("ladder groups", list)
    assert list(given[3:]) == [each.data_ptr() for each in groups[: len(given) - 3]]
    assert groups[0].is_contiguous() and groups[0].shape == (256, 8)
    assert (problem.scales == groups[0].T).all()
    if problem.zeros is not None:
        assert (problem.zeros == groups[1].T).all()


INSTALLED = ladder.absence() is None
NEEDS = pytest.mark.skipif(not INSTALLED, reason="the peers are not installed: bash run.sh peers")


@NEEDS
@pytest.mark.parametrize(("b_dtype", "m"), [("uint8", 1), ("uint8", 16), ("uint2", 16)])
def test_the_package_writes_a_kernel_that_compiles_for_a_gpu_that_is_not_here(b_dtype, m):
    shape = workload(b_dtype, m, 256, 1024)
    spec = ladder.candidates(shape, "sm_90")[0]
    built = ladder.build(spec)
    assert built.files["kernel.cubin"].startswith(b"\x7fELF")
    assert built.versions["bitblas"] == ladder.VERSION and built.facts["spill_bytes"] == 0
    names = str(built.facts["arguments"]).split()
    assert [ladder.NAMES[each] for each in names] == ["a", "words", "c", "scales", "zeros"]
    tiling = schedule(spec)
    along_n = 256 // int(tiling["columns"] if m == 1 else tiling["block_n"])
    assert ladder.extents(built.facts, "grid") == (along_n, 1, 1)
    assert np.prod(ladder.extents(built.facts, "block")) == built.facts["threads"]
    assert 0 <= built.facts["shared_bytes"] < 227 << 10
    if b_dtype == "uint2":
        assert ladder.build(spec) == built  # wherever it is compiled


# What one thread does to decode eight codes, in the terms of a CPU.
CPU = """
#include <cstdint>
#include <cstring>
typedef unsigned int uint;
typedef _Float16 half;
#define __device__
static uint __pack_half2(half x, half y) {
  uint16_t low, high;
  memcpy(&low, &x, 2), memcpy(&high, &y, 2);
  return uint(high) << 16 | low;
}
static void lop3(uint &to, uint word, uint mask, uint more, uint table) {
  to = table == 0xea ? word & mask | more : 0;
}
static void halves(uint &to, uint a, uint b, bool times) {
  half x[2], y[2];
  memcpy(x, &a, 4), memcpy(y, &b, 4);
  to = times ? __pack_half2(x[0] * y[0], x[1] * y[1]) : __pack_half2(x[0] - y[0], x[1] - y[1]);
}
static void sub(uint &to, uint a, uint b) { halves(to, a, b, false); }
static void fma(uint &to, uint a, uint b, uint) { halves(to, a, b, true); }
"""
RUN = """
int main() {
  for (int eight = 0; eight < COUNT; ++eight) {
    half decoded[8], scale = 1, zero = 0;
    DECODE(bytes + eight * BITS, decoded, &scale, &zero);
    for (half each : decoded) __builtin_printf("%d ", int(each));
  }
}
"""


@NEEDS
@pytest.mark.parametrize("b_dtype", ["uint1", "uint2", "uint4"])
def test_the_package_decodes_what_we_store(b_dtype, tmp_path):
    spec = ladder.candidates(workload(b_dtype, 1, 256, 1024), "sm_90")[0]
    text = ladder.build(spec).files["source.cu"].decode()
    decoding = text[text.index("template <") : text.index("#include <tl_templates/cuda/gemm.h>")]
    operand = r'"=?[rn]"\(((?:[^()]|\([^()]*\))*)\)'
    decoding = re.sub(
        r'asm volatile\("(\w+)[^"]*"(.*?)\);\n',
        lambda found: f"{found[1]}({', '.join(re.findall(operand, found[2]))});\n",
        decoding,
        flags=re.S,
    )
    codes = codes_of(b_dtype, 128, 1)
    stored = ",".join(map(str, ladder.pack(codes, b_dtype)))
    facts = f"#define BITS {tilus.dtype(b_dtype).bits}\n#define COUNT 16\n"
    called = re.findall(r"void (\w+)", decoding)[-1]
    facts += f"#define DECODE {called}\n"
    facts += f"unsigned char bytes[] = {{{stored}}};\n"
    (tmp_path / "decode.cpp").write_text(CPU + facts + decoding + RUN)
    command = ["g++", "-std=c++17", "-w", "decode.cpp", "-o", "decode"]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "decode"], capture_output=True, text=True, check=True).stdout
    assert list(map(int, said.split())) == codes[:, 0].tolist()
