"""A virtual machine and compiler for GPU kernels on arbitrary low-precision numbers."""

from tilus.casts import cast_layout
from tilus.compiler import Compiled, compile, compiler_versions, kernel_key, run_on_host
from tilus.dispatch import DeviceWeight
from tilus.dtypes import DType, bf16, dtype, f16, f32, i32, u8, u32
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import (
    Integer,
    Pointer,
    Program,
    Scalar,
    Swizzle,
    Var,
    ceil_div,
    equal,
    maximum,
    minimum,
)
from tilus.lang import Tracer, trace
from tilus.layout import (
    Layout,
    column_local,
    column_spatial,
    layout,
    local,
    permute_registers,
    reduce,
    replicate,
    spatial,
    transpose,
)
from tilus.quantization import QuantizedWeight, matmul, quantize

__all__ = [
    "Compiled", "DType", "DeviceWeight", "Integer", "Layout", "Pointer", "Program",
    "QuantizedWeight", "Scalar", "Swizzle", "TilusError", "Tracer", "Var", "bf16", "cast_layout",
    "ceil_div", "column_local", "column_spatial", "compile", "compiler_versions", "dtype", "equal",
    "f16", "f32", "i32", "interpret", "kernel_key", "layout", "local", "matmul", "maximum",
    "minimum", "permute_registers", "quantize", "reduce", "replicate", "run_on_host", "spatial",
    "trace", "transpose", "u8", "u32",
]  # fmt: skip
