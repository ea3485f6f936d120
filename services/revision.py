"""Which commit of this project is running."""

import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

from services.settings import ROOT


class Revision(NamedTuple):
    """A commit, and whether tracked files differ from it."""

    commit: str
    dirty: bool


@cache
def revision(given: str = "", root: Path = ROOT) -> Revision:
    """The tree's own commit; `given` where it came without its .git; else "unknown"."""
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit is None:
        return Revision(given or "unknown", dirty=False)
    return Revision(commit, dirty=bool(_git(root, "status", "--porcelain", "-uno")))


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
