"""The figures there are so far, by number, and what each shows.

Only this is known of them before anything is installed: the standard library alone.
"""

TITLES = {
    9: "Quantised matmul against cuBLAS f16",
    10: "Quantised matmul of every type against cuBLAS f16",
}
CHOICE = " or ".join(map(str, TITLES))


def refusal(number: int) -> str | None:
    """Why there is no figure of that number; None if there is."""
    if number in TITLES:
        return None
    return f"there is no figure {number} yet: choose {CHOICE}"
