"""The tools that read the code agree with it."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from services.settings import ROOT

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
}


@pytest.mark.skipif(find_spec("ruff") is None, reason="the linters are not installed here")
@pytest.mark.parametrize("check", CHECKS)
def test_the_code_is_as_the_tools_want_it(check):
    command = [sys.executable, "-m", *CHECKS[check]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
