"""The peers: what they refuse, how they get our weights, and the child that works for one."""

import json
from pathlib import Path

import pytest

import tilus
from services.executors import EXECUTORS, humming, peer, public_tilus
from services.executors.base import ExecutorError
from services.experiments import BENCH_EXECUTORS, BENCH_TYPES, INTEGERS, plain, workload
from services.settings import ROOT
from tests.services import fake_peer
from tilus.dtypes import SMALL_FLOATS

SCRIPT = Path(fake_peer.__file__)
EVERY = [*INTEGERS, *(each.name for each in SMALL_FLOATS)]


def test_a_child_finds_the_peers_package_where_ours_has_the_same_name(home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = home("public-tilus", "tilus", tilus="words = 'not ours'")
    answer, files = peer.ask(SCRIPT, {"do": "import", "module": "tilus"}, folder)
    assert answer == {"words": "not ours"} and files == {"kernel.cubin": b"not ours"}
    assert not hasattr(tilus, "words")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "raise"}, "ended with 1: .*ValueError: no such shape"),
        ({"do": "exit"}, "ended with 7: there is no compiler"),
        ({"do": "mumble"}, "without an answer: 'nothing to say"),
        ({"do": "silence"}, "without an answer"),
        ({"do": "die"}, "ended with -9: it said nothing"),
        ({"do": "sleep"}, "no answer in 1 s"),
    ],
)
def test_a_child_that_does_not_answer_says_how_it_ended(home, request_, words):
    folder = home("p", "p")
    with pytest.raises(ExecutorError, match=f"(?s)fake_peer.*{words}"):
        peer.ask(SCRIPT, request_, folder, seconds=1 if request_["do"] == "sleep" else 20)


def test_a_program_that_is_not_there_is_there_for_a_child_and_fails(home):
    request, folder = {"do": "call", "program": "no-such-program"}, home("p", "p")
    answer, _ = peer.ask(SCRIPT, request, folder, tools=("no-such-program", "sh"))
    assert answer == {"code": 1}
    with pytest.raises(ExecutorError, match="FileNotFoundError"):
        peer.ask(SCRIPT, request, folder)


def test_a_peer_that_is_not_installed_says_how_to_get_it(home):
    shape = workload("uint4", 1, 8192, 8192)
    for name, package in (("humming", "humming-kernels"), ("public-tilus", "tilus")):
        words = f"{package} is not installed here: bash run.sh peers"
        assert EXECUTORS[name].refusal(shape) == words
        home(name, package)
        assert EXECUTORS[name].refusal(shape) is None
        assert peer.versions(peer.home(name)) == {package: "1.0"}


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("humming", plain("float16", 1, 256, 256), "1 to 8 bits"),
        ("humming", plain("uint4", 1, 96, 256), "multiples of 128"),
        ("humming", (workload("uint4", 1, 256, 256), 16), "multiple of 32"),
        ("public-tilus", plain("float16", 1, 256, 256), "no type float16"),
        ("public-tilus", plain("uint4", 1, 96, 256), "no tiling"),
        ("public-tilus", (workload("uint4", 1, 256, 256), 32), "no tiling"),
        ("public-tilus", (workload("uint4", 1, 256, 256), 100), "does not divide"),
    ],
)
def test_what_a_peer_does_not_take_is_refused_with_a_reason(home, name, shape, words):
    home(name, EXECUTORS[name].PACKAGE)
    if isinstance(shape, tuple):
        shape = shape[0].model_copy(update={"group_size": shape[1]})
    assert words in EXECUTORS[name].refusal(shape)
    bfloat16 = workload("uint4", 1, 256, 256).model_copy(update={"a_dtype": "bfloat16"})
    assert "not bfloat16" in EXECUTORS[name].refusal(bfloat16)


def test_the_peers_take_every_cell_of_the_benchmark(home):
    for name in ("humming", "public-tilus"):
        home(name, EXECUTORS[name].PACKAGE)
        for b_dtype in BENCH_TYPES:
            for m in (1, 16, 64, 2048):
                assert EXECUTORS[name].refusal(workload(b_dtype, m, 57344, 8192)) is None
    assert set(BENCH_EXECUTORS) < set(EXECUTORS)


def test_humming_has_all_types_but_floats_without_exponent_or_with_more_than_5_bits():
    names = {b_dtype: their_type(b_dtype) for b_dtype in EVERY}
    assert names["uint3"] == names["int3"] == "uint3"
    assert names["float6_e3m2"] == "float6e3m2"
    refused = {b_dtype for b_dtype, name in names.items() if name is None}
    exponents = {each.name: each.name.partition("_e")[2].split("m")[0] for each in SMALL_FLOATS}
    assert refused == {name for name, bits in exponents.items() if not 1 <= int(bits) <= 5}


def their_type(b_dtype):
    try:
        return humming.their_type(b_dtype)
    except ExecutorError:
        return None


def test_a_kernel_of_public_tilus_has_a_key_of_what_decides_its_bytes(home):
    home("public-tilus", "tilus")
    one, *others = public_tilus.candidates(workload("uint4", 1, 8192, 8192), "sm_90")
    keys = {public_tilus.key(spec) for spec in (one, *others)}
    assert len(keys) == len(others) + 1 == public_tilus.TRIED
    before = public_tilus.key(one)
    home("public-tilus", "apache-tvm-ffi")
    assert public_tilus.key(one) != before
    assert {spec.arch for spec in (one, *others)} == {"sm_90a"}


def test_public_tilus_is_built_by_its_child_and_says_who_took_part(home, monkeypatch):
    folder = home("public-tilus", "tilus")
    seen = []

    def ask(script, request, found, tools):
        assert tools == ("git",)
        seen.append((script, request, found))
        facts = {"entry": "f", "threads": 128, "shared_bytes": 0, "nvcc": "13.0.88"}
        return facts, {"kernel.cubin": b"elf", "source.cu": b"//", "else": b""}

    monkeypatch.setattr(peer, "ask", ask)
    spec = public_tilus.candidates(workload("uint4", 1, 8192, 8192), "sm_90")[0]
    built = public_tilus.build(spec)
    parameters = json.loads(json.dumps(spec.parameters))
    request = {"parameters": parameters, "arch": "sm_90a"}
    assert seen == [(public_tilus.SCRIPT, request, folder)]
    assert built.load() == (b"elf", "f", 128, 0) and set(built.files) == {
        "kernel.cubin",
        "source.cu",
    }
    assert built.versions == {"tilus": "1.0", "nvcc": "13.0.88"}
