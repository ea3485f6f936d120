"""Programs from strangers: a program that does what it says, or a sentence. Never anything else."""

import ast
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tilus.harness import case_of
from tilus import codegen
from tilus.admission import check_program
from tilus.compiler import compile, run_on_host, text_of
from tilus.dtypes import f32
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Do, For, If, Integer, Let, Pointer, Program, Var, While, walk
from tilus.isa import ISA
from tilus.jsonform import from_json, to_json
from tilus.kernels import quantized_matmul, streaming_read
from tilus.lang import PREFIX, Tracer, trace
from tilus.layout import spatial
from tilus.names import check_name
from tilus.runtime import prelude
from tilus.target import HOST
from tilus.text import from_text, to_text

SAMPLES = [case_of(cls.samples()[0], np.random.default_rng(0)).program
           for cls in ISA.values() if cls.samples()]  # fmt: skip
SMALL = quantized_matmul.program(
    b_dtype="u4", zeros=True, block_n=32, block_k=64, warps=2, stages=2
)
PROGRAMS = [*SAMPLES, streaming_read.program(), SMALL]
SECONDS = 5.0  # for one program; the largest of the library takes a tenth of it

TEXT = """\
@program(grid=(n, 1, 1), threads=32, blocks_per_sm=1)
def small(x: pointer(float32), n: integer(4)):
    g0 = view_global(x, float32, (n,), (1,))
    s0 = allocate_shared(float32, (2, 32), swizzle(0, 0, 0))
    for u0 in range(0, 4, 1):
        r0 = load_global(g0, (u0,), layout((32,), threads=((32, 0, 1),), registers=()), None)
        r1 = elementwise('add', (r0, r0))
        store_shared(s0, r1, (0, 0))
        v0 = (u0 + 1)
        v0 = (v0 // 2)
        if (v0 < 2):
            break
"""
ROW = "layout((32,), threads=((32, 0, 1),), registers=())"


def accepted(read: Callable[[], Program]) -> bool:
    """Whether it is read as a program, which then is one in every respect."""
    start = time.perf_counter()
    try:
        program = read()
    except TilusError as refusal:
        assert len(str(refusal)) < 4000
        assert time.perf_counter() - start < SECONDS
        return False
    assert from_text(to_text(program)) == program
    assert from_json(json.loads(json.dumps(to_json(program)))) == program
    with suppress(TilusError):
        text_of(program, HOST)
    assert time.perf_counter() - start < SECONDS
    return True


def test_the_small_program_is_one() -> None:
    assert accepted(lambda: from_text(TEXT))
    assert to_text(from_text(TEXT)) == TEXT


def test_the_library_and_the_samples_are_within_the_limits() -> None:
    for program in PROGRAMS:
        check_program(program)


HUGE = "9" * 9
# what is written instead of what, and the beginning of the refusal
HOSTILE = [
    ("threads=32,", "threads=2048,", "at most 1024"),
    ("threads=32,", "threads=33,", "want whole warps"),
    ("threads=32,", "threads=0,", "want whole warps"),
    ("threads=32,", "threads=True,", "not a value"),
    ("threads=32,", "threads=None,", "want int"),
    ("blocks_per_sm=1", "blocks_per_sm=99", "at most 32"),
    ("blocks_per_sm=1", "blocks_per_sm=0", "want at least 1"),
    ("grid=(n, 1, 1)", "grid=(n, 1)", "want tuple"),
    ("grid=(n, 1, 1)", "grid=n", "want tuple"),
    ("grid=(n, 1, 1)", "grid=(x, 1, 1)", "x is a pointer here"),
    ("grid=(n, 1, 1)", "grid=(block_x, 1, 1)", "no parameters"),
    ("def small(", "def small(*more, ", "want @program"),
    ("n: integer(4)):", "n: integer(4)=3):", "want @program"),
    ("n: integer(4)):", "n: integer(0)):", "want at least 1"),
    ("(n,), (1,))", "(n,), ())", "give one stride a dimension"),
    ("(n,), (1,))", "(x,), (1,))", "x is a pointer here"),
    ("view_global(x,", "view_global(n,", "n is not a pointer parameter"),
    ("view_global(x,", "view_global((n + 1),", "pointer is Binary"),
    ("(2, 32), swizzle", "(200000, 32), swizzle", "bytes of shared memory: at most 232448"),
    ("(2, 32), swizzle", f"({HUGE}, {HUGE}, {HUGE}, {HUGE}), swizzle", "at most 232448"),
    ("(2, 32), swizzle", "(2, -32), swizzle", "no tensor has the shape"),
    ("(2, 32), swizzle", "(), swizzle", "no tensor has the shape"),
    ("swizzle(0, 0, 0)", f"swizzle(1, {HUGE}, 3)", "at most 24"),
    ("swizzle(0, 0, 0)", "swizzle(3, 1, 2)", "onto each other"),
    ("swizzle(0, 0, 0)", "swizzle(1, 20, 18)", "out of it"),
    ("range(0, 4, 1)", f"range(0, {HUGE}, 0)", "turns of a loop unrolled: at most"),
    ("range(0, 4, 1)", "range(0, n, 0)", "only if both are numbers"),
    ("range(0, 4, 1)", f"range(0, 4, {HUGE})", "at most 1024"),
    ("range(0, 4, 1)", "range(0, 4, -1)", "want at least 0"),
    ("range(0, 4, 1)", "range(0, 99999999999, 1)", "at most 4294967295"),
    ("range(0, 4, 1)", f"range(0, {hex(1 << 50000)}, 1)", r"line 5: 2\^50000 and more"),
    (ROW, "layout((1000000000,), threads=((1000000000, 0, 1),), registers=())", "at most 262144"),
    (ROW, "layout((1000000000,), threads=(), registers=((1000000000, 0, 1),))", "at most 262144"),
    (ROW, "layout((1024, 1024), threads=((1024, 0, 1),), registers=((1024, 1, 1),))", "262144"),
    (ROW, "layout((2048,), threads=((2048, 0, 1),), registers=())", "at most 1024"),
    (ROW, "layout((2048,), threads=(), registers=((2048, 0, 1),))", "at most 1024"),
    (ROW, "layout((1,), threads=((1024, -1, 0), (1024, -1, 0)), registers=())", "at most 1024"),
    (ROW, "layout((1024,), threads=((1024, -1, 0),), registers=((1024, 0, 1),))", "262144"),
    (ROW, "open(1000000000)", "at most 262144"),
    ("    s0 = ", "    s1 = allocate_shared(float32, (1816, 32), swizzle(0, 0, 0))\n    s0 = ",
     "232704 bytes of shared memory: at most"),
    (ROW, "open((1,))", "want integers"),
    (ROW, f"layout((1,), threads=({'(2, -1, 0), ' * 70}), registers=())", "digits of a layout"),
    (ROW, f"layout(({'1, ' * 9}), threads=(), registers=())", "at most 8"),
    (ROW, "layout((), threads=(), registers=())", "at least one dimension"),
    (ROW, "layout(32, threads=(), registers=())", "the shape is 32"),
    (ROW, "layout((2,), threads=2, registers=())", r"want tuples \(size, dim, stride\)"),
    (ROW, "3", "want Layout"),
    (", None)", ", (1,))", "which has the dimensions"),
    (", None)", ", (-1,))", "which has the dimensions"),
    ("'add', (r0, r0)", "'add', ()", "takes 2 operands"),
    ("'add', (r0, r0)", "'add', (r0, s0)", "args is tuple"),
    ("'add', (r0, r0)", "'); exit(1); (', (r0, r0)", "no operation"),
    ("'add', (r0, r0)", "'add', (r0, r0), 3", "takes op, args"),
    ("store_shared(s0, r1, (0, 0))", "store_shared(s0, r1, (2, 0))", "leaves dimension 0"),
    ("store_shared(s0, r1, (0, 0))", "store_shared(s0, r1, (0, 8))", "leaves dimension 1"),
    ("store_shared(s0, r1, (0, 0))", "store_shared(s0, r1, ())", "want one index a dimension"),
    ("(u0 + 1)", "(v9 + 1)", "no dtype 'v9'"),
    ("(u0 + 1)", "(r0 + 1)", "want Expr | int"),
    ("(u0 + 1)", "(u0 + 1.5)", "want Expr | int"),
    ("(u0 + 1)", "(u0 // 0)", "want at least 1"),
    ("(u0 + 1)", "(u0 + " * 60 + "1" + ")" * 60, "levels of statements, or of values"),
    ("v0 = (v0 // 2)", "u0 = (v0 // 2)", "no let has made it"),
    ("v0 = (v0 // 2)", "n = (v0 // 2)", "no let has made it"),
    ("v0 = (v0 // 2)", "break", None),
    ("        if (v0 < 2):\n            break", "    if (v0 < 2):\n        pass",
     "has no meaning here"),
    ("        if (v0 < 2):\n            break", "    break", "there is no loop to leave"),
    ("        if (v0 < 2):\n            break", "    else:\n        break", "not a statement"),
    ("        if (v0 < 2):\n", "        while (v0 < 2):\n", None),
    ("r1 = elementwise", "small.r1 = elementwise", "not a statement"),
    ("r1 = elementwise", "r1 = r2 = elementwise", "not a statement"),
    ("r1 = elementwise('add', (r0, r0))", "r1 = slice(r0, 3, 0, 1)", "the start must be"),
    ("r1 = elementwise('add', (r0, r0))", "r1 = slice(r0, 0, 0, 0)", "the start must be"),
    ("r1 = elementwise('add', (r0, r0))", "r1 = dot(r0, r0, r0)", "want"),
    ("    s0 = ", "    'a text'\n    s0 = ", "not a statement"),
    ("    s0 = ", "    s0: int = ", "not a statement"),
    ("@program", "@program\n@program", "want @program"),
    ("        v0 = (u0 + 1)\n", "        v0 = 1\n" * 5000, "at most 2048"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_too_large_or_makes_no_sense_is_refused(
    old: str, new: str, says: str | None
) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    if says is None:
        assert accepted(lambda: from_text(text))
        return
    start = time.perf_counter()
    with pytest.raises(TilusError, match=says):
        from_text(text)
    assert time.perf_counter() - start < SECONDS


@pytest.mark.parametrize(("name", "says"), [
    ("block_y", "has a meaning"), ("float32", "has a meaning"), ("bfloat16", "has a meaning"),
    ("n" * 99, "at most 64"), ("p0", "ends in a digit"),
    ("\xe9t\xe9", "take a word of"),
])  # fmt: skip
def test_names_with_a_meaning_are_refused(name: str, says: str) -> None:
    with pytest.raises(TilusError, match=says):
        from_text(re.sub(r"\bn\b", name, TEXT))
    if name not in ("p0", "block_y"):
        with pytest.raises(TilusError, match=says):
            from_text(re.sub(r"\bv0\b", name, TEXT))


@pytest.mark.parametrize("depth", [30, 60, 3000])
def test_statements_inside_each_other(depth: int) -> None:
    lines = ["    " + " " * i + "if (n < 3):" for i in range(depth)]
    text = "\n".join([*TEXT.splitlines()[:2], *lines, "    " + " " * depth + "pass", ""])
    assert accepted(lambda: from_text(text)) == (depth < 48)


def replaced(document: Any, path: list[Any], value: Any) -> Any:
    """A copy of the document with another value at `path`."""
    changed = json.loads(json.dumps(document))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


EVIL = 'x"); system("rm -rf /"); ("'
DOCUMENT = to_json(from_text(TEXT))
DOCUMENTS = [
    (["name"], EVIL), (["name"], "lambda"), (["name"], 7), (["name"], ""),
    (["parameters", 0, "name"], EVIL), (["parameters", 1, "name"], "n\n"),
    (["body", 0, "out", "name"], EVIL), (["body", 0, "out", "pointer"], EVIL),
    (["body", 0, "instruction", "pointer", "name"], EVIL),
    (["body", 0, "out", "where"], "*/ evil"), (["body", 0, "where"], "*/ evil"),
    (["body", 2, "var", "name"], EVIL), (["body", 2, "unroll"], 1.0),
    (["body", 2, "body", 1, "instruction", "op"], EVIL),
    (["body", 2, "body", 3, "value", "op"], EVIL), (["body", 2, "body", 3, "value", "b"], 1 << 40),
    (["body", 2, "body", 3, "value", "b"], True), (["body", 2, "body", 3, "value"], float("nan")),
    (["body", 2, "body", 3, "value"], {"node": "Expr"}),
    (["body", 0, "instruction"], {"node": "Instruction"}), (["body", 0, "out"], None),
    (["body", 0, "out"], {"node": "Tensor", "name": "g0", "dtype": {"dtype": "float32"}}),
    (["body", 2, "body", 0, "instruction", "src", "shape"], [5]),
    (["threads"], 1 << 4000), (["grid"], [1, 1]), (["body"], {}), (["body"], [[]]), (["body"], [3]),
    (["body", 0], {"node": "Program"}), (["parameters"], [{"node": "Var", "name": "x"}]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_a_document_with_a_foreign_value_is_refused(path: list[Any], value: Any) -> None:
    with pytest.raises(TilusError):
        from_json(replaced(DOCUMENT, path, value))


def test_a_document_of_a_billion_levels_or_values_is_refused() -> None:
    deep: Any = 3
    for _ in range(100_000):
        deep = [deep]
    for document in (deep, [[0] * 1000] * 1000, {"node": "Program", "name": [0] * 600_000}):
        with pytest.raises(TilusError, match="at most"):
            from_json(document)


def test_no_name_in_a_text_is_more_than_a_word() -> None:
    for word in (
        "a b",
        "a;",
        'a"',
        "a\n",
        "",
        "1a",
        "a-b",
        "é",
        "a" * 65,
        "for",
        "__launch_bounds_",
    ):
        with pytest.raises(TilusError, match=r"name of|cannot be called"):
            check_name(word, "a thing")


def test_no_word_of_the_preludes_ends_like_a_name_of_a_program() -> None:
    for folders in (prelude.CUDA, prelude.HOST):
        text = re.sub(r'//.*|".*?"', "", prelude.text_of(folders))
        assert re.findall(r"\b(?!__)\w+_\b(?! *##)", text) == []


def test_the_names_that_a_program_gets_are_free() -> None:
    """A tracer and the passes number on after one of these letters."""
    for letter in (*PREFIX.values(), "u"):
        for number in range(100):
            check_name(f"{letter}{number}", "a tensor or a scalar")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_only_names_of_the_program_end_in_an_underscore(program: Program) -> None:
    tree = ast.walk(ast.parse(to_text(program)))
    own = {n.id for n in tree if isinstance(n, ast.Name)} | {p.name for p in program.parameters}
    text = re.sub(r'//.*|".*?"', "", codegen.generate(program, HOST).text)
    found = set(re.findall(r"\b(?!__)(\w+)_\b", text))
    assert found <= own | {f"tilus_{program.name.rstrip('_')}"}


@pytest.mark.parametrize("name", ["thread", "lane", "shared", "int", "printf", "load_global", "b"])
def test_a_parameter_may_be_called_what_c_and_the_prelude_call_theirs(name: str) -> None:
    def double(t: Tracer, x: Var) -> None:
        view = t.view_global(x, f32, (32,), (1,))
        tile = t.load_global(view, (0,), spatial(32))
        t.store_global(view, t.add(tile, tile), (0,))

    array = np.arange(32, dtype=np.float32)
    program = trace("double", double, [Pointer(name, f32)], lambda x: (1, 1, 1), 32)
    run_on_host(program, {name: array})
    np.testing.assert_array_equal(array, 2 * np.arange(32, dtype=np.float32))
    assert compile(program).cubin[:4] == b"\x7fELF"


def test_a_loop_that_a_compiler_would_unroll_for_ever_is_refused() -> None:
    def nested(t: Tracer, x: Var) -> None:
        tile = t.allocate_register(f32, spatial(32), 1)
        for _ in t.range(0, 1000, 0):
            for _ in t.range(0, 1000, 0):
                t.assign(tile, t.add(tile, tile))

    program = trace("nested", nested, [Pointer("x", f32)], lambda x: (1, 1, 1), 32)
    with pytest.raises(TilusError, match="generated text, loops unrolled: at most"):
        compile(program)


def test_text_grows_no_further_than_a_compiler_can_take() -> None:
    """Few characters that mean many: a long expression in each access of a wide tile."""
    wide = "layout((512,), threads=(), registers=((512, 0, 1),))"
    long = " + ".join(["(n + n)"] * 40)
    loads = "".join(f"    r{i} = load_global(g0, (0,), {wide}, None)\n" for i in range(200))
    head = "\n".join(TEXT.splitlines()[:2])
    text = f"{head}\n    g0 = view_global(x, float32, (({long}),), (n,))\n{loads}"
    program = from_text(text)
    start = time.perf_counter()
    with pytest.raises(TilusError, match="generated text"):
        text_of(program, HOST)
    assert time.perf_counter() - start < SECONDS


def test_shared_memory_that_a_target_lacks_is_refused() -> None:
    program = from_text(TEXT.replace("(2, 32)", "(1000, 32)"))
    codegen.generate(program, "sm_80")
    with pytest.raises(TilusError, match="at most 101376 on sm_89"):
        codegen.generate(program, "sm_89")


@pytest.mark.parametrize(("n", "says"), [(1 << 31, "blocks along x"), (-1, "no negative"),
                                         (0, "divides by zero")])  # fmt: skip
def test_a_grid_that_cannot_be_launched_is_refused(n: int, says: str) -> None:
    grid = "grid=((8 // n), 1, 1)" if n == 0 else "grid=(n, 1, 1)"
    program = from_text(TEXT.replace("grid=(n, 1, 1)", grid))
    arguments = {"x": np.zeros(4, np.float32), "n": n}
    for evaluated in (interpret, codegen.grid_of):
        with pytest.raises(TilusError, match=says):
            evaluated(program, arguments)


def test_a_program_that_runs_too_long_is_stopped() -> None:
    def long(t: Tracer, n: Var) -> None:
        for _ in t.range(0, n * 10_000):
            t.synchronize()

    program = trace("long", long, [Integer("n")], lambda n: (1, 1, 1), 32)
    with pytest.raises(TilusError, match="all the steps"):
        interpret(program, {"n": 1}, steps=1000)
    interpret(program, {"n": 0}, steps=1)


def test_a_traced_program_is_checked_before_it_is_compiled() -> None:
    def leaky(t: Tracer, x: Var) -> None:
        for u in t.range(0, 4):
            inner = t.let(u + 1)
        t.let(inner + 1)

    program = trace("leaky", leaky, [Pointer("x", f32)], lambda x: (1, 1, 1), 32)
    with pytest.raises(TilusError, match="v0 has no meaning here"):
        compile(program)


# mutations

ATOMS = st.sampled_from([
    None, True, -1, 0, 1, 3, 2**31, 2**33, 2**5000, 1.5, float("inf"), "", "n", "r0", "thread", "é",
    "a" * 100, EVIL, "u9", [], {}, [1], [[]], {"node": "Var", "name": "n"}, {"node": "Break"},
    {"dtype": "float16"}, {"dtype": "int4"}, {"layout": [[32], [[32, 0, 1]], []]},
    {"layout": [[2**30], [], [[2**30, 0, 1]]]}, {"node": "Binary", "op": "//", "a": 1, "b": 0},
])  # fmt: skip
numbers = st.integers(0, 2**30)
CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value))
    below = [p for _, v in inner if isinstance(v, dict | list) for p in places(v)]
    return [(value, key) for key, _ in inner] + below


def mutate(document: Any, kind: int, where: int, other: int, atom: Any) -> None:
    there = places(document)
    place, key = there[where % len(there)]
    donor, donor_key = there[other % len(there)]
    match kind:
        case 0:
            place[key] = deepcopy(atom)
        case 1:
            del place[key]
        case 2:
            place[key] = deepcopy(donor[donor_key])
        case 3 if isinstance(place, list):
            place.insert(key, deepcopy(place[key]))
        case 4 if isinstance(place[key], int):
            place[key] += other % 5 - 2
        case 5 if isinstance(place, dict):
            place[str(atom)[:9]] = place.pop(key)


changes = st.lists(st.tuples(st.integers(0, 5), numbers, numbers, ATOMS), min_size=1, max_size=3)


@settings(max_examples=250, **CALM)
@given(st.sampled_from(PROGRAMS[:-1]), changes)
def test_a_changed_document_is_a_program_or_refused(program: Program, made: Any) -> None:
    document = to_json(program)
    for change in made:
        if places(document):
            mutate(document, *change)
    accepted(lambda: from_json(document))


TOKENS = ["0", "-1", "4294967296", "1e999", "()", "(1,)", "None", "n", "r0", "g0", "s0", "block_x",
          "float16", "int4", "'add'", "(", ")", ",", ":", "\n", "    ", "pass", "break",
          "lambda: 0", "*", "**", "0x" + "f" * 2000, "é", "\0", "if 1:", "swizzle(9, 9, 9)", "[]",
          "{}", "x.y", "f'{x}'", "yield", "\ud800"]  # fmt: skip
edits = st.lists(st.tuples(st.integers(0, 3), numbers, numbers, st.sampled_from(TOKENS)),
                 min_size=1, max_size=3)  # fmt: skip


def edit(words: list[str], kind: int, where: int, other: int, token: str) -> None:
    at = where % len(words)
    match kind:
        case 0:
            words[at] = token
        case 1:
            words[at] = words[other % len(words)]
        case 2:
            words.insert(at, token)
        case 3 if len(words) > 1:
            del words[at]


@settings(max_examples=250, **CALM)
@given(st.sampled_from(PROGRAMS[:-1]), edits)
def test_a_changed_text_is_a_program_or_refused(program: Program, made: Any) -> None:
    spaced = to_text(program)
    for mark in "(),:\n":
        spaced = spaced.replace(mark, f"\x01{mark}\x01")
    words = spaced.replace(" = ", "\x01 = \x01").split("\x01")
    for change in made:
        edit(words, *change)
    accepted(lambda: from_text("".join(words)))


@settings(max_examples=150, **CALM)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_is_refused_with_a_sentence(text: str) -> None:
    assert not accepted(lambda: from_text(text))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["node", "name", "dtype", "layout", "body"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, **CALM)
@given(json_values)
def test_any_document_is_refused_with_a_sentence(document: Any) -> None:
    assert not accepted(lambda: from_json(document))


def test_the_mutations_reach_every_kind_of_statement() -> None:
    kinds = {type(s) for program in PROGRAMS[:-1] for s in walk(program.body)}
    assert {Do, For, If, Let} <= kinds
    assert While in {type(s) for s in walk(from_text(TEXT.replace("if (v0", "while (v0")).body)}
