"""The language models of the evaluation: their linear layers, from their public configurations."""

from typing import NamedTuple


class Linear(NamedTuple):
    """A linear layer whose weight is [k, n]; what is stored as one matrix is one layer."""

    name: str
    k: int
    n: int


class Model(NamedTuple):
    """A model: its name here and where it is published, how many blocks, the layers of each."""

    name: str
    published: tuple[str, ...]
    blocks: int
    linears: tuple[Linear, ...]


GEMMA = Model(
    "gemma-2-9b",
    ("google/gemma-2-9b",),
    42,
    (
        Linear("qkv", 3584, 8192),
        Linear("out", 4096, 3584),
        Linear("gate and up", 3584, 28672),
        Linear("down", 14336, 3584),
    ),
)
QWEN = Model(
    "Qwen2.5-32B",
    ("Qwen/Qwen2.5-Coder-32B-Instruct", "Qwen/Qwen2.5-32B"),
    64,
    (
        Linear("qkv", 5120, 7168),
        Linear("out", 5120, 5120),
        Linear("gate and up", 5120, 55296),
        Linear("down", 27648, 5120),
    ),
)
LLAMA = Model(
    "Llama-3-70B",
    ("meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-70B"),
    80,
    (
        Linear("qkv", 8192, 10240),
        Linear("out", 8192, 8192),
        Linear("gate and up", 8192, 57344),
        Linear("down", 28672, 8192),
    ),
)
MODELS = {model.name: model for model in (GEMMA, QWEN, LLAMA)}
