"""Programs as data: the library's hashes are pinned, and all of it survives both forms.

    python -m tests.tilus.test_golden       writes golden/hashes.json anew

A hash is part of the key of every compiled kernel and every measurement: a change must be meant.
"""

import json
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tilus.harness import case_of
from tilus import codegen
from tilus.compiler import compile
from tilus.dtypes import ALL
from tilus.ir import Program
from tilus.isa import ISA
from tilus.jsonform import from_json, to_json
from tilus.kernels import quantized_matmul, streaming_read
from tilus.text import from_text, program_hash, to_text

GOLDEN = Path(__file__).parent / "golden" / "hashes.json"
SMALL = {"block_n": 32, "block_k": 64, "warps": 2, "stages": 3, "blocks_per_sm": 1}
FLAT = {"block_n": 64, "block_k": 128, "warps": 4, "stages": 3, "blocks_per_sm": 2}
TALL = {"block_m": 64, "block_n": 64, "block_k": 64, "warps": 4, "stages": 4}
PINNED: dict[str, dict[str, Any]] = {
    "default": {},
    "u1": {"b_dtype": "u1", "zeros": True},
    "i4 bfloat16": {"b_dtype": "i4", "a_dtype": "bfloat16", "group_size": 32},
    "f6e3m2 channelwise": {"b_dtype": "f6e3m2", "group_size": -1},
    "u8 tall": {"b_dtype": "u8", "zeros": True, **TALL},
    "i4 bias and gelu": {"b_dtype": "i4", "bias": True, "activation": "gelu", **SMALL},
    "i3 edges": {"b_dtype": "i3", "k_multiple": 16, "n_multiple": 1, **SMALL},
}


@cache
def pinned() -> dict[str, Program]:
    """The programs whose hashes are kept."""
    matmuls = {f"matmul {name}": quantized_matmul.program(**p) for name, p in PINNED.items()}
    samples = {
        f"sample {name}": case_of(cls.samples()[0], np.random.default_rng(0)).program
        for name, cls in ISA.items()
        if cls.samples()
    }
    return {"streaming_read": streaming_read.program(), **matmuls, **samples}


def spread() -> list[dict[str, Any]]:
    """Every format with every kind of group, schedules and zeros by turns."""
    turns = cycle([(FLAT, False), (TALL, True), (SMALL, True), (TALL, False), (SMALL, False)])
    found = []
    for t in (t for t in ALL if t.bits <= 8 and t.name != "bool"):
        for group_size, (schedule, zeros) in zip((32, 128, -1), turns, strict=False):
            found.append({"b_dtype": t.name, "group_size": group_size,
                          "zeros": zeros and t.kind != "float", **schedule})  # fmt: skip
    return found


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()) if GOLDEN.exists() else [])
def test_hashes_are_stable(name: str) -> None:
    assert program_hash(pinned()[name]) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("parameters", spread(), ids=lambda p: f"{p['b_dtype']}_{p['group_size']}")
def test_every_kernel_of_the_library_survives_both_forms(parameters: dict[str, Any]) -> None:
    program = quantized_matmul.program(**parameters)
    from_document = from_json(json.loads(json.dumps(to_json(program))))
    read = from_text(to_text(program))
    assert read == from_document == program
    assert program_hash(read) == program_hash(program)
    assert codegen.generate(from_document) == codegen.generate(program)


@pytest.mark.parametrize("name", ["streaming_read", "matmul i3 edges", "matmul u1"])
def test_what_is_read_compiles_to_the_same_bytes(name: str) -> None:
    program = pinned()[name]
    made = compile(program)
    for read in (from_json(json.loads(json.dumps(to_json(program)))), from_text(to_text(program))):
        again = compile(read)
        assert (again.key, again.cubin) == (made.key, made.cubin)


def main() -> None:
    hashes = {name: program_hash(program) for name, program in pinned().items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
