"""Programs as data: what is read is a program, or a sentence with the line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilus.errors import TilusError
from tilus.ir import Binary, Scalar, Var, binary, divisor, evaluate
from tilus.jsonform import from_json, to_json
from tilus.kernels import quantized_matmul, streaming_read
from tilus.text import from_text, program_hash, to_text

TEXT = """\
@program(grid=(n, 1, 1), threads=32, blocks_per_sm=1)
def turned(x: pointer(uint32), n: integer(4)):
    g0 = view_global(x, uint32, (n,), (1,))
    r0 = allocate_register(uint32, layout((32,), threads=((32, 0, 1),), registers=()), 0)
    for u0 in range(0, ((n + 31) // 32), 1):
        r1 = load_global(g0, ((u0 * 32),), layout((32,), threads=((32, 0, 1),), registers=()), None)
        r2 = elementwise('xor', (r0, r1))
        assign(r0, r2)
    if (n > 3):
        store_global(g0, r0, (block_x,), None)
    else:
        v0 = min(n, 2)
        while (v0 < n):
            v0 = (v0 + 1)
            break
"""
PROGRAM = from_text(TEXT)
TEXT_HASH = "1df447461aded1fdfffaf0434c7aa40776690245308d792dd304e2641ac69bdd"

numbers = st.integers(0, 40)
leaves: st.SearchStrategy[Scalar] = st.one_of(numbers, st.sampled_from([Var("a"), Var("b")]))


def combined(inner: st.SearchStrategy[Scalar]) -> st.SearchStrategy[Scalar]:
    safe = st.sampled_from(["+", "*", "<", "<=", "==", "min", "max", "&", "|", "^"])
    by_number = st.tuples(st.sampled_from(["//", "%"]), inner, st.integers(1, 9))
    return st.one_of(st.tuples(safe, inner, inner), by_number).map(lambda t: t)  # type: ignore[return-value]


trees = st.recursive(leaves, combined, max_leaves=12)


def built(tree: object, plain: bool) -> Scalar:
    """A tree of (op, a, b) as an expression, simplified on the way unless `plain`."""
    match tree:
        case (op, a, b):
            make = Binary if plain else binary
            return make(op, built(a, plain), built(b, plain))
    return tree  # type: ignore[return-value]


@settings(max_examples=400, deadline=None)
@given(trees, numbers, numbers)
def test_simplifying_keeps_the_value(tree: object, a: int, b: int) -> None:
    env = {"a": a, "b": b}
    assert evaluate(built(tree, False), env) == evaluate(built(tree, True), env)


@settings(max_examples=400, deadline=None)
@given(trees, st.integers(1, 6), st.integers(1, 6), numbers, numbers)
def test_divisor_divides(tree: object, da: int, db: int, a: int, b: int) -> None:
    e = built(tree, False)
    found = divisor(e, {"a": da, "b": db})
    assert evaluate(e, {"a": a * da, "b": b * db}) % found == 0


def test_text_and_json_say_all_of_a_program() -> None:
    for program in (PROGRAM, streaming_read.program(), quantized_matmul.program()):
        assert from_text(to_text(program)) == program
        assert from_json(to_json(program)) == program
    assert to_text(PROGRAM) == TEXT


def test_the_hash_of_a_program_is_stable() -> None:
    """A change here changes every key in every store: it must be meant."""
    assert program_hash(PROGRAM) == TEXT_HASH
    assert program_hash(PROGRAM) != program_hash(streaming_read.program())


@pytest.mark.parametrize(("old", "new", "says"), [
    ("allocate_register(uint32,", "allocate_register(uint33,", "line 4: .*no dtype 'uint33'"),
    ("load_global(g0,", "load_global(g7,", "line 6: .*no dtype 'g7'"),
    ("load_global(g0,", "steal_global(g0,", "not a value"),
    ("threads=32", "threads=32, colour=3", "want @program"),
    ("assign(r0, r2)", "__import__('os')", "not an instruction"),
    ("assign(r0, r2)", "r0.x = 3", "not a statement"),
    ("elementwise('xor', (r0, r1))", "elementwise('steal', (r0, r1))", "no operation 'steal'"),
    ("((32, 0, 1),)", "((32, 0, 2),)", "do not reach"),
    ("def turned", "class turned", "not a program"),
    ("r2 = ", "r0 = ", "elementwise cannot be given the name r0"),
])  # fmt: skip
def test_a_text_that_is_no_program_is_refused(old: str, new: str, says: str) -> None:
    text = to_text(PROGRAM)
    assert old in text
    with pytest.raises(TilusError, match=says):
        from_text(text.replace(old, new, 1))


def test_nothing_in_a_text_is_executed() -> None:
    for hostile in ("import os", "exit()", "a" * 5_000_000, "(" * 5000, "x = [] * 9"):
        with pytest.raises(TilusError):
            from_text(hostile)


def test_a_document_cannot_lie_about_a_result() -> None:
    document = to_json(PROGRAM)
    document["body"][1]["out"]["dtype"] = {"dtype": "float32"}
    with pytest.raises(TilusError, match="returns"):
        from_json(document)


@pytest.mark.parametrize("document", [None, 3, [], {}, {"node": "system"}, {"node": "Program"},
                                      {"node": "Var", "name": "x"}])  # fmt: skip
def test_a_document_that_is_no_program_is_refused(document: object) -> None:
    with pytest.raises(TilusError, match="not a program"):
        from_json(document)
