"""The figures there are, by number, and what each shows.

Only this is known of them before anything is installed: the standard library alone.
"""

TITLES = {
    9: "Quantised matmul against cuBLAS f16",
    10: "Quantised matmul of every type against cuBLAS f16",
    11: "Language models end to end",
    12: "A language model end to end on several GPUs",
    13: "Quantised matmul against cuBLAS f16 over the batch size",
}
# Numbers of what has a table and no picture, and whose cells are chosen when it is asked for.
BENCH, TUNE = 0, -1
TABLES = {BENCH: "bench.jsonl", TUNE: "tuned.jsonl"}  # the files of their records
_FIRST, *_OTHERS = map(str, TITLES)
CHOICE = f"{', '.join([_FIRST, *_OTHERS[:-1]])} or {_OTHERS[-1]}"


def refusal(number: int) -> str | None:
    """Why there is no figure of that number; None if there is."""
    if number in TITLES:
        return None
    return f"there is no figure {number}: choose {CHOICE}"
