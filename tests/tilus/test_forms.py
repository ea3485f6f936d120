"""Programs as data: what is read is a program, or a sentence with the line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilus.errors import TilusError
from tilus.ir import Binary, Scalar, Var, binary, divisor, evaluate
from tilus.jsonform import from_json, to_json
from tilus.kernels import quantized_matmul, streaming_read
from tilus.text import from_text, program_hash, to_text

PROGRAM = streaming_read.program()

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


def test_the_hash_of_a_program_is_stable() -> None:
    """A change here changes every key in every store: it must be meant."""
    assert program_hash(PROGRAM) == program_hash(from_text(to_text(PROGRAM)))
    assert program_hash(PROGRAM) != program_hash(quantized_matmul.program())


@pytest.mark.parametrize(("old", "new", "says"), [
    ("allocate_register(uint32,", "allocate_register(uint33,", "line 5: .*no dtype 'uint33'"),
    ("load_global(g0,", "load_global(g7,", "line 9: .*no dtype 'g7'"),
    ("load_global(g0,", "steal_global(g0,", "not a value"),
    ("threads=512", "threads=512, colour=3", "want @program"),
    ("assign(r0, r5)", "__import__('os')", "not an instruction"),
    ("assign(r0, r5)", "r0.x = 3", "not a statement"),
    ("elementwise('xor', (r0, r1))", "elementwise('steal', (r0, r1))", "no operation 'steal'"),
    ("((512, 0, 4),)", "((512, 0, 8),)", "do not reach"),
    ("def streaming_read", "class streaming_read", "not a program"),
    ("r5 = ", "r0 = ", "elementwise cannot be given the name r0"),
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
    document["body"][2]["out"]["dtype"] = {"dtype": "float32"}
    with pytest.raises(TilusError, match="returns"):
        from_json(document)


@pytest.mark.parametrize("document", [None, 3, [], {}, {"node": "system"}, {"node": "Program"},
                                      {"node": "Var", "name": "x"}])  # fmt: skip
def test_a_document_that_is_no_program_is_refused(document: object) -> None:
    with pytest.raises(TilusError, match="not a program"):
        from_json(document)
