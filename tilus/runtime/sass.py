"""Cubin -> the instructions that the chip runs, with nvdisasm."""

import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tilus.errors import TilusError

SECTION = re.compile(r"^\.text\.(\w+):$", re.MULTILINE)
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", re.MULTILINE)


def found() -> Path | None:
    """The nvdisasm of this machine: that in the package triton, else one on the PATH."""
    spec = find_spec("triton")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        inside = Path(folder) / "backends/nvidia/bin/nvdisasm"
        if inside.exists():
            return inside
    outside = shutil.which("nvdisasm")
    return Path(outside) if outside else None


@cache
def disassembler() -> Path:
    """The nvdisasm to use, or a sentence where to get one."""
    if path := found():
        return path
    raise TilusError(
        "showing SASS needs nvdisasm: pip install triton, or put a CUDA toolkit on the PATH"
    )


def disassemble(cubin: bytes) -> str:
    """The code sections of `cubin` as nvdisasm prints them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(disassembler()), "--print-code", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TilusError(f"nvdisasm does not read the cubin: {done.stderr.strip()[:400]}")
    return done.stdout


def functions(text: str) -> dict[str, list[str]]:
    """The instructions of each function in what `disassemble` gave."""
    _, *parts = SECTION.split(text)
    return {
        name: INSTRUCTION.findall(body)
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }  # fmt: skip
