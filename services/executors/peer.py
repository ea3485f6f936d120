"""Packages of others, each in a folder of its own, and a child process that works for one.

A peer's folder, `.peers/NAME`, holds its package and what that needs besides torch. What is
imported from it never meets our own packages in one process unless the executor wants it to."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from services.executors.base import ExecutorError

FOLDER = Path(__file__).resolve().parents[2] / ".peers"
SECONDS = 240.0
WORDS = 2000  # of what a child said before it ended, at most
# The peer's folder comes before every other, and the script's own folder is not looked in.
BEGIN = "import runpy, sys; sys.path.insert(0, sys.argv[1]); del sys.argv[:2]; runpy.run_path("
BEGIN += "sys.argv[0], run_name='__main__')"
WITH_TOOLS = 'PATH="$PATH:$0" exec "$@"'


def home(name: str) -> Path:
    """Where the packages of this peer are, or would be."""
    return FOLDER / name


@cache
def versions(folder: Path) -> dict[str, str]:
    """The packages of a peer's folder with their versions, by lower-case name."""
    found = distributions(path=[str(folder)])
    return {each.metadata["Name"].lower(): each.version for each in found}


def absence(name: str, package: str) -> str | None:
    """Why this peer cannot take part here; None if its package is installed."""
    if package in versions(home(name)):
        return None
    return f"{package} is not installed here: bash run.sh peers"


def ask(
    script: Path,
    request: Mapping[str, Any],
    folder: Path,
    seconds: float = SECONDS,
    tools: Iterable[str] = (),
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a child that runs `script` answers to `request`, and the files that it left.

    The child finds packages in `folder` first. It reads the request as JSON from its input, leaves
    files in the folder that its argument names, and ends its output with a line of JSON. Programs
    among `tools` that this machine lacks are there and fail. ExecutorError says how the child ended
    if it did not answer.
    """
    with tempfile.TemporaryDirectory() as left, tempfile.TemporaryDirectory() as stubs:
        for tool in tools:
            if shutil.which(tool) is None:
                Path(stubs, tool).write_text("#!/bin/sh\nexit 1\n")
                Path(stubs, tool).chmod(0o755)
        command = ["sh", "-c", WITH_TOOLS, stubs, sys.executable, "-P", "-c", BEGIN]
        command += [str(folder), str(script), left]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=seconds,
                cwd=left,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ExecutorError(f"{script.stem} gave no answer in {seconds:.0f} s") from None
        files = {path.name: path.read_bytes() for path in Path(left).iterdir() if path.is_file()}
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing")[-WORDS:]
        raise ExecutorError(f"{script.stem} ended with {done.returncode}: {said}")
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise ExecutorError(f"{script.stem} ended without an answer: {done.stdout!r}") from None
    return dict(answer), files
