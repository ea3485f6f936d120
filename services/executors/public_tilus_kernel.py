"""The kernel of the peer `public-tilus`, in that package's language; `tilus` is not ours here.

Run by `peer.ask` alone, in a process where the public package is found first. The weight is stored
as the registers of a warp hold it: see `public_tilus.pack`. A request is the parameters of a kernel
spec; the answer says how to launch what lies in kernel.cubin."""

# The language is the package's own, whose names mypy looks for in ours.
# mypy: ignore-errors

import json
import re
import subprocess
import sys
from math import gcd
from pathlib import Path

from tilus.backends.codegen import generate_ir_module
from tilus.drivers import BuildOptions, optimize_ir_module, optimize_program
from tilus.hidet import libinfo
from tilus.hidet.backend.build import NVCC
from tilus.hidet.backend.codegen import codegen
from tilus.hidet.ir import dtypes
from tilus.hidet.ir.type import void_p
from tilus.ir.layout.ops import concat, local, reduce, shared_row_major_swizzle, spatial
from tilus.ir.tools import verify
from tilus.lang.instantiated_script import CallParameters, JitInstance
from tilus.utils import cdiv

import tilus
from tilus import float16, float32, int32, uint8
from tilus.target import Target, TargetProperties, set_current_target

# As the package itself calls its compiler, but for the host's half, which is not needed.
FLAGS = ("-O3", "-std=c++17", "-ftz=true", "-prec-div=false", "--ptxas-options=-v", "-w", "-cubin")
SHARED_BYTES = {90: 227 << 10, 100: 227 << 10}
LEAST_SHARED_BYTES = 99 << 10


class QuantizedMatmul(tilus.Script):
    """c = a @ ((codes - zeros) * scales): stages in shared memory, splits of k take turns at c."""

    def __init__(
        self,
        b_dtype,
        group_size: int,
        zeros: bool,
        warps_m: int,
        warps_n: int,
        repeat_m: int,
        repeat_n: int,
        repeat_k: int,
        stages: int,
        split_k: int,
    ):
        super().__init__()
        atom = self.cuda.atomic_mma_configs.m16n8k16_f16_f32
        self.mma = self.cuda.mma_dot_config(
            atom, warp_spatial=(warps_m, warps_n), warp_repeat=(repeat_m, repeat_n, repeat_k)
        )
        self.b_dtype, self.grouped, self.zeros = b_dtype, group_size != -1, zeros
        self.group_size = group_size
        self.stages, self.split_k = stages, split_k
        self.warps_n, self.warps = warps_n, warps_m * warps_n
        self.block_m, self.block_n, self.block_k = self.mma.m, self.mma.n, self.mma.k
        self.tile_n = self.block_n // warps_n
        tile = stored_bytes(repeat_k, repeat_n, b_dtype.nbits)
        self.tile_bytes = tile.size
        # every warp of a column of warps reads the same tile
        self.words = concat(reduce(spatial(1, warps_n, warps_m, ranks=[0, 2, 1]), dims=[2]), tile)
        self.of_columns = reduce(self.mma.lb, dims=[0], keepdims=True)
        self.of_sums = reduce(self.mma.lc, dims=[0], keepdims=True)
        self.in_a = shared_row_major_swizzle(
            dtype_nbytes=2, shape=[stages, self.block_m, self.block_k]
        )
        self.in_b = self.cuda.shared_layout([stages, 1, warps_n, self.tile_bytes])
        self.in_groups = self.cuda.shared_layout([stages, 1, self.block_n])
        self.in_c = shared_row_major_swizzle(dtype_nbytes=2, shape=[self.block_m, self.block_n])

    def __call__(
        self,
        m: int32,
        n: int,
        k: int,
        a_ptr: void_p,
        words_ptr: void_p,
        scales_ptr: void_p,
        zeros_ptr: void_p,
        c_ptr: void_p,
        turns_ptr: void_p,
    ):
        self.attrs.blocks = [cdiv(m, self.block_m), n // self.block_n, self.split_k]
        self.attrs.warps = self.warps
        row: int32 = self.block_m * self.blockIdx.x
        column: int32 = self.block_n * self.blockIdx.y
        share = cdiv(cdiv(k, self.split_k), self.block_k) * self.block_k
        first: int32 = self.blockIdx.z * share
        last: int32 = min(first + share, k)

        groups = k // self.group_size if self.grouped else 1
        ga = self.global_view(a_ptr, dtype=float16, shape=[m, k])
        tiles = [k // self.block_k, n // self.tile_n, self.tile_bytes]
        gb = self.global_view(words_ptr, dtype=uint8, shape=tiles)
        gs = self.global_view(scales_ptr, dtype=float16, shape=[groups, n])
        gz = self.global_view(zeros_ptr, dtype=float16, shape=[groups, n])
        gc = self.global_view(c_ptr, dtype=float16, shape=[m, n])

        sa = self.shared_tensor(dtype=float16, shape=[self.stages, self.block_m, self.block_k])
        sb = self.shared_tensor(dtype=uint8, shape=[self.stages, 1, self.warps_n, self.tile_bytes])
        if self.grouped:
            ss = self.shared_tensor(dtype=float16, shape=[self.stages, 1, self.block_n])
            if self.zeros:
                sz = self.shared_tensor(dtype=float16, shape=[self.stages, 1, self.block_n])
        elif self.zeros:
            zero = self.load_global(gz, offsets=[0, column], shape=[1, self.block_n])
            self.annotate_layout(zero, self.of_columns)
        sums = self.register_tensor(dtype=float32, shape=[self.block_m, self.block_n], init=0.0)
        self.annotate_layout(sums, self.mma.lc)

        for stage in range(self.stages - 1):
            at = first + stage * self.block_k
            self.copy_async(ga, sa[stage], offsets=[row, at])
            self.copy_async(gb, sb[stage], offsets=[at // self.block_k, column // self.tile_n, 0])
            if self.grouped:
                self.copy_async(gs, ss[stage], offsets=[at // self.group_size, column])
                if self.zeros:
                    self.copy_async(gz, sz[stage], offsets=[at // self.group_size, column])
            self.copy_async_commit_group()
        self.copy_async_wait_group(n=self.stages - 2)
        self.sync()

        now: int32 = 0
        then: int32 = self.stages - 1
        for step in self.range(first, last, self.block_k, unroll=self.stages):
            a = self.load_shared(sa[now])
            words = self.load_shared(sb[now])
            codes = self.view(words, dtype=self.b_dtype, layout=self.mma.lb)
            b = self.cast(codes, dtype=float16)
            if self.grouped:
                if self.zeros:
                    zero = self.load_shared(sz[now])
                    self.annotate_layout(zero, self.of_columns)
                    b = b - zero
                scale = self.load_shared(ss[now])
                self.annotate_layout(scale, self.of_columns)
                b = b * scale
            elif self.zeros:
                b = b - zero
            self.dot(a, b, sums, out=sums)

            at = step + (self.stages - 1) * self.block_k
            self.copy_async(ga, sa[then], offsets=[row, at])
            self.copy_async(gb, sb[then], offsets=[at // self.block_k, column // self.tile_n, 0])
            if self.grouped:
                self.copy_async(gs, ss[then], offsets=[at // self.group_size, column])
                if self.zeros:
                    self.copy_async(gz, sz[then], offsets=[at // self.group_size, column])
            self.copy_async_commit_group()
            self.copy_async_wait_group(n=self.stages - 2)
            now = (now + 1) % self.stages
            then = (then + 1) % self.stages
            self.sync()
            self.annotate_layout(a, self.mma.la)
            self.annotate_layout(words, self.words)
            self.annotate_layout(codes, self.mma.lb)

        self.copy_async_wait_all()
        self.sync()
        self.free_shared(sa)
        self.free_shared(sb)
        if self.grouped:
            self.free_shared(ss)
            if self.zeros:
                self.free_shared(sz)
        else:
            whole = self.load_global(gs, offsets=[0, column], shape=[1, self.block_n])
            self.annotate_layout(whole, self.of_sums)
            sums = sums * self.cast(whole, dtype=float32)

        sc = self.shared_tensor(dtype=float16, shape=[self.block_m, self.block_n])
        self.store_shared(sc, self.cast(sums, dtype=float16))
        self.sync()
        out = self.load_shared(sc)
        self.free_shared(sc)
        if self.split_k == 1:
            self.store_global(gc, out, offsets=[row, column])
        else:
            turns = self.global_view(
                turns_ptr, dtype=int32, shape=[cdiv(m, self.block_m), n // self.block_n]
            )
            turn: ~int32 = turns[self.blockIdx.x, self.blockIdx.y].item_ptr()
            if self.blockIdx.z > 0:
                self.lock_semaphore(turn, value=self.blockIdx.z)
                before = self.load_global(
                    gc, offsets=[row, column], shape=[self.block_m, self.block_n]
                )
                self.add(out, before, out=out)
            self.store_global(gc, out, offsets=[row, column])
            self.sync()
            self.release_semaphore(turn, value=(self.blockIdx.z + 1) % self.split_k)
        self.annotate_layout(sa, self.in_a)
        self.annotate_layout(sb, self.in_b)
        self.annotate_layout(sc, self.in_c)
        if self.grouped:
            self.annotate_layout(ss, self.in_groups)
            if self.zeros:
                self.annotate_layout(sz, self.in_groups)


def stored_bytes(repeat_k: int, repeat_n: int, bits: int):
    """Which byte of a stored tile each thread reads: runs of up to 16, thread after thread."""
    held = repeat_k * repeat_n * 4 * bits // 8
    run = gcd(held, 16)
    return local(held // run).spatial(32).local(run)


def number_type(name: str):
    """The package's own type of that name; its integers of less than 8 bits have a b behind."""
    return getattr(dtypes, f"{name}b" if "int" in name and not name.endswith("8") else name)


def chip(arch: str):
    """The package's target for sm_90a and the like."""
    digits, suffix = arch.removeprefix("sm_").rstrip("a"), "a" if arch.endswith("a") else None
    capability = divmod(int(digits), 10)
    shared = SHARED_BYTES.get(int(digits), LEAST_SHARED_BYTES)
    kind = TargetProperties(capability, suffix, shared)
    return Target("nvgpu", f"sm{digits}{suffix or ''}", kind)


def lowered(parameters, arch: str, folder: Path):
    """The module of the kernel; its CUDA text goes to source.cu."""
    set_current_target(chip(arch))
    constants = {name: parameters.pop(name) for name in ("n", "k")}
    schedule = parameters | {"b_dtype": number_type(parameters["b_dtype"])}
    job = (QuantizedMatmul, CallParameters(QuantizedMatmul), schedule, constants, {"m": 1})
    program = JitInstance._instantiate_schedule(job)
    if isinstance(program, str):
        sys.exit(program)
    verify(program)
    program = optimize_program(program, BuildOptions.create(), folder)
    module = optimize_ir_module(generate_ir_module(program), folder)
    codegen(module, src_out_path=str(folder / "source.cu"), target="cuda")
    return module


def compiled(folder: Path, arch: str):
    """What the package's compiler says of source.cu; kernel.cubin is its result."""
    compiler = NVCC()
    includes = [*compiler.include_dirs, libinfo.find_include_path()]
    includes.append(tilus.hidet.backend.build.tvm_ffi.libinfo.find_include_path())
    command = [compiler.nvcc_path, *FLAGS, f"-arch={arch}", *(f"-I{each}" for each in includes)]
    command += [str(folder / "source.cu"), "-o", str(folder / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    asked = subprocess.run([compiler.nvcc_path, "--version"], capture_output=True, text=True)
    return done.stderr, re.search(r"V([\d.]+)", asked.stdout)[1]


def main() -> None:
    """Answer one request."""
    folder = Path(sys.argv[1])
    request = json.load(sys.stdin)
    module = lowered(request["parameters"], request["arch"], folder)
    said, compiler = compiled(folder, request["arch"])
    (kernel,) = (each for each in module.functions.values() if each.kind == "cuda_kernel")
    answer = {
        "entry": re.search(r"entry function '(\w+)'", said)[1],
        "threads": int(kernel.attrs["cuda.block_dim"]),
        "shared_bytes": int(kernel.attrs["cuda.dynamic_smem_bytes"]),
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spill_bytes": int(re.search(r"(\d+) bytes spill stores", said)[1]),
        "nvcc": compiler,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
