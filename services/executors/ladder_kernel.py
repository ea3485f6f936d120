"""The kernels of the peer `ladder`: its package writes CUDA text for a tiling, nvcc makes a cubin.

Run by `peer.ask` alone, in a process where the package is found first. To be imported it wants a
GPU, a driver and PyTorch, to write text none of them: they are stood in for. A request is the
kernel and the parameters of a spec; the answer says how to launch what lies in kernel.cubin."""

# The package is not typed, and is not here when mypy looks.
# mypy: ignore-errors

import ctypes
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from math import prod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

ROOT = Path(find_spec("bitblas").origin).parent / "3rdparty"
TVM, TILELANG = ROOT / "tvm", ROOT / "tilelang"
LIBRARIES = ("libcuda.so.1", "libcudart.so.12", "libnvrtc.so.12")
USERS = (TVM / "build" / "libtvm.so", TILELANG / "build" / "libtilelang_module.so")
# The package has no way to schedule for sm_90; what it writes for sm_80 compiles for later ones.
SCHEDULED_FOR = "sm_80"
CHIP = SimpleNamespace(
    exist=True,
    warp_size=32,
    max_threads_per_block=1024,
    max_shared_memory_per_block=48 << 10,
    multi_processor_count=108,
    compute_version="8.0",
)
LOWERING = {"tir.use_async_copy": True, "tir.disable_cse_tir": True}
PROPOSALS = 40  # tilings that its own search is asked for, at most
FLAGS = ("-O3", "-std=c++17", "-w", "-frandom-seed=0")
PLACE = r"_INTERNAL_[0-9a-f]{8}"
CLASSES = frozenset(("Module", "Tensor"))  # of PyTorch, that the package derives from or names


class Absent(ModuleType):
    """A module whose every name is something that can be called, or derived from."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {}) if name in CLASSES else MagicMock(name=name)
        setattr(self, name, found)
        return found


class Finder(MetaPathFinder, Loader):
    """PyTorch is always found, and is absent."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        """There is nothing in it."""


def stand_in_for_cuda(folder: Path) -> None:
    """Load libraries of CUDA's names, where every function that is called fails."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", *USERS], capture_output=True, text=True, check=True
    )
    names = set(re.findall(r" U ((?:cu|cuda|nvrtc)[A-Z]\w+)", listed.stdout))
    text = "".join(f"int {name}(void) {{ return 100; }}\n" for name in sorted(names))
    (folder / "cuda.c").write_text(text)
    for name in LIBRARIES:
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "cuda.c", "-o", name]
        subprocess.run(command, cwd=folder, check=True)
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)


def frames(context=1):
    """What `inspect.stack` gives, less what it reads from files: hundreds of kernels ask for it."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        found.append(inspect.FrameInfo(frame, "", frame.f_lineno, frame.f_code.co_name, None, None))
        frame = frame.f_back
    return found


def stand_in(folder: Path) -> None:
    """Everything that the package must find to be imported."""
    stand_in_for_cuda(folder)
    sys.meta_path.insert(0, Finder())
    sys.path[:0] = [str(TVM / "python"), str(TILELANG)]
    inspect.stack = frames
    tvm = import_module("tvm")
    tvm.runtime.cuda = tvm.cuda = lambda index=0: CHIP


class Writer:
    """The package with its compiler replaced: the text that it writes is kept."""

    def __init__(self):
        self.tvm, self.bitblas = import_module("tvm"), import_module("bitblas")
        self.tilelang = import_module("tilelang")
        self.target = self.tvm.target.Target(f"cuda -arch={SCHEDULED_FOR}")
        self.arch = import_module("bitblas.base.arch").CUDA(self.target)
        self.written = ""
        for name in ("tvm_callback_cuda_compile", "tilelang_callback_cuda_compile"):
            self.tvm.register_func(name, self.keep, override=True)

    def keep(self, text, *_):
        """What it would compile, as it would."""
        utils = import_module("bitblas.utils")
        text = utils.tensor_remove_make_int4(utils.tensor_replace_dp4a(text))
        self.written = utils.tensor_remove_make_int2(text).replace("htanh", "half_tanh")
        return text

    def text(self, kernel: str, given):
        """The CUDA text of a kernel, and the module that says how it is launched."""
        bits = int(re.search(r"\d+", given["b_dtype"])[0])
        problem = {
            "M": given["m"],
            "N": given["n"],
            "K": given["k"],
            "in_dtype": "float16",
            "out_dtype": "float16",
            "accum_dtype": "float32",
            "storage_dtype": given["b_dtype"] if bits == 8 else "int8",
            "source_format": given["b_dtype"].removesuffix(str(bits)),
            "with_scaling": True,
            "with_zeros": given["zeros"],
            "group_size": given["group_size"],
            "fast_decoding": bits < 8,
            "zeros_mode": "original",
        }
        scheduled = self.by_search if bits == 8 else self.by_template
        return scheduled(kernel, given, problem, bits)

    def by_template(self, kernel, given, problem, bits):
        """Its kernels in TileLang, for less than 8 bits."""
        templates = import_module("bitblas.ops.general_matmul.tilelang.dequantize")
        shape = {"num_bits": bits, "trans_A": False, "trans_B": True}
        if kernel == "gemv":
            template = templates.gemv_dequantize_simt.GemvDequantizeSIMTScheduler
            tiling = {"n_partition": given["columns"], "reduce_thread": given["lanes"]}
        else:
            template = templates.MatmulDequantizeMMAScheduler
            tiling = {
                "block_row_warps": given["block_m"] // given["warp_m"],
                "block_col_warps": given["block_n"] // given["warp_n"],
                "warp_row_tiles": given["warp_m"],
                "warp_col_tiles": given["warp_n"],
                "chunk": given["block_k"],
                "num_stages": given["stages"],
                "enable_rasterization": True,
                "split_k_factor": given["split_k"],
            }
        function = template(**problem, **shape).apply_config(**tiling)
        with self.tvm.transform.PassContext(config=LOWERING):
            self.tilelang.lower(function, self.target, runtime_only=True)
        return self.written, self.launched(self.tvm.IRModule.from_expr(function), "tl")

    def by_search(self, kernel, given, problem, bits):
        """Its older kernels, for 8 bits: the tiling is one of those that its search proposes."""
        written = import_module("bitblas.ops.general_matmul.tirscript.matmul_dequantize_impl")
        base = import_module("bitblas.base.utils")
        function = written.select_implementation(**problem, bit=bits, layout="nt")
        function = function["main"] if isinstance(function, self.tvm.IRModule) else function
        wanted = wanted_hint(kernel, given)
        hints = base.get_roller_hints_from_func(function, self.arch, PROPOSALS)
        found = [hint for hint in hints if wanted.items() <= hint.to_dict().items()]
        if not found:
            sys.exit(f"the package proposes no tiling with {wanted}")
        hint = found[0]
        # Sums of halves of a step, in float16, do not lower where sums are in float32.
        hint.block_reduction_depth = None
        module = base._apply_config(function, hint).mod
        more = getattr(hint, "pass_context", None) or {}
        with self.tvm.transform.PassContext(config=LOWERING | more):
            self.tvm.build(module, target=self.target)
            return self.written, self.launched(module, "tir")

    def launched(self, module, backend):
        """The one function of the device, whose attributes say how it is launched."""
        analysis = import_module("bitblas.utils.rtmod_analysis")
        lowered = analysis.get_annotated_device_mod(module, self.target, backend)
        (function,) = lowered.functions.values()
        return function.attrs


def wanted_hint(kernel, given):
    """What a tiling is called in the package's proposals."""
    if kernel == "gemv":
        return {"block": [given["columns"]], "reduce_thread": [given["lanes"]]}
    return {
        "block": [given["block_m"], given["block_n"]],
        "warp": [given["warp_m"], given["warp_n"]],
        "rstep": [given["block_k"]],
        "pipeline_stage": given["stages"],
    }


def compiled(folder: Path, arch: str):
    """What nvcc says of source.cu, and its version; kernel.cubin is its result.

    It goes by way of PTX, where the folder, of which nvcc makes a part of a name, can be left out.
    """
    includes = [f"-I{TILELANG / 'src'}", f"-I{ROOT / 'cutlass' / 'include'}"]
    nvcc(folder, *FLAGS, f"-arch={arch}", *includes, "-ptx", "source.cu", "-o", "kernel.ptx")
    text = (folder / "kernel.ptx").read_text()
    (folder / "kernel.ptx").write_text(re.sub(PLACE, "_INTERNAL_00000000", text))
    options = (f"-arch={arch}", "--ptxas-options=-v", "-cubin")
    said = nvcc(folder, *options, "kernel.ptx", "-o", "kernel.cubin").stderr
    return said, re.search(r"V([\d.]+)", nvcc(folder, "--version").stdout)[1]


def nvcc(folder: Path, *arguments: str):
    """Run it in a folder, and end with what it says if it fails."""
    done = subprocess.run(["nvcc", *arguments], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        sys.exit(done.stderr)
    return done


def extents(attributes, kind: str):
    """How many threads or blocks there are along x, y and z."""
    found = {tag: int(extent) for tag, extent in attributes["thread_extent"].items()}
    return tuple(found.get(f"{kind}.{axis}", 1) for axis in "xyz")


def main() -> None:
    """Answer one request."""
    folder = Path(sys.argv[1])
    request = json.load(sys.stdin)
    stand_in(folder)
    text, attributes = Writer().text(request["kernel"], request["parameters"])
    (folder / "source.cu").write_text(text)
    said, compiler = compiled(folder, request["arch"])
    declared = re.search(r"__global__ void[^;{]*?(\w+)\(([^)]*)\)\s*\{", text)
    block = extents(attributes, "threadIdx")
    answer = {
        "entry": declared[1],
        "arguments": " ".join(re.findall(r"(\w+)(?:,|$)", declared[2])),
        "grid": " ".join(map(str, extents(attributes, "blockIdx"))),
        "block": " ".join(map(str, block)),
        "threads": prod(block),
        "shared_bytes": int(attributes.get("dyn_shared_memory_buf", 0)),
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spill_bytes": int(re.search(r"(\d+) bytes spill stores", said)[1]),
        "nvcc": compiler,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
