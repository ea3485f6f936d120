"""AddressSanitizer and UndefinedBehaviorSanitizer have nothing to say of generated text."""

import pytest

from tests.tilus.sanitized import BUGS, missing, start

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"no sanitizers: {missing()}")


def test_samples_and_library_are_clean() -> None:
    done = start()
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("bug", BUGS)
def test_what_lies_beside_an_array_is_noticed(bug: str) -> None:
    done = start(bug)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
