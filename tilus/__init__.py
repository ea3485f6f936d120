"""A virtual machine and compiler for GPU kernels on arbitrary low-precision numbers."""

from tilus.compiler import Compiled, compile, compiler_versions, kernel_key, run_on_host
from tilus.dtypes import DType, dtype
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Integer, Pointer, Program
from tilus.lang import Tracer, trace
from tilus.layout import (
    Layout,
    column_local,
    column_spatial,
    layout,
    local,
    reduce,
    replicate,
    spatial,
)
from tilus.quantization import QuantizedWeight, matmul, quantize

__all__ = [
    "Compiled", "DType", "Integer", "Layout", "Pointer", "Program", "QuantizedWeight",
    "TilusError", "Tracer", "column_local", "column_spatial", "compile", "compiler_versions",
    "dtype", "interpret", "kernel_key", "layout", "local", "matmul", "quantize", "reduce",
    "replicate", "run_on_host", "spatial", "trace",
]  # fmt: skip
