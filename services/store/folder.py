"""A store in a folder, which many processes read and write at once.

ac/<key> cas/<sha256>     the artifacts
tmp/                      what is being written; it gets its name when it is whole and on disk
quarantine/               what failed verification, for whoever wants to know why
locks/                    one file a key that is being built, and one that collecting takes
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from services.messages import Manifest
from services.store.base import KEY, Space, Store, checked, fault, unseal

STALE_SECONDS = 3600
# How exactly the time of last use is known.
USE_SECONDS = 60


class Folder(Store):
    """A content-addressed folder; two stores on one folder are the same store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("ac", "cas", "tmp", "locks", "quarantine"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def get(self, space: Space, name: str) -> bytes | None:
        """The verified bytes; reading a manifest is using it."""
        content = self.look(space, name)
        if content is not None and space == "ac":
            _touch(self.path(space, name))
        return content

    def look(self, space: Space, name: str) -> bytes | None:
        """The verified bytes, without this counting as use."""
        path = self.path(space, name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if fault(space, name, content) is None:
            return content
        self._set_aside(space, name)
        return None

    def set(self, space: Space, name: str, content: bytes) -> None:
        """Store the bytes; an object that is there whole counts as written now."""
        path = self.path(space, name)
        why = fault(space, name, content)
        if why is not None:
            raise ValueError(why)
        with self.locked(exclusive=False):
            if space == "cas" and self.look(space, name) is not None:
                os.utime(path)
            else:
                self._write(path, content)

    def known(self, key: str) -> Manifest | None:
        """The manifest of a key, its files not looked at, without this counting as use."""
        sealed = self.look("ac", key)
        return None if sealed is None else unseal(sealed)

    def sizes(self, manifest: Manifest) -> dict[str, int]:
        """The bytes of those files of an artifact that are there."""
        paths = {name: self.path("cas", found) for name, found in manifest.files.items()}
        return {name: path.stat().st_size for name, path in paths.items() if path.exists()}

    def every_key(self) -> Iterator[str]:
        """Every key that has a manifest, whole or not, in order."""
        return self._names("ac")

    def every_object(self) -> Iterator[str]:
        """The digest of every object, whole or not, in order."""
        return self._names("cas")

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """One builder of a key at a time, across processes; a killed holder lets go."""
        with (self.root / "locks" / checked(key)).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Writers share the folder; whoever removes from it has it alone."""
        with (self.root / "locks" / "collect").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield

    def size(self) -> tuple[int, int]:
        """How many files are stored, and their bytes."""
        sizes = [entry.stat().st_size for entry in os.scandir(self.root / "cas")]
        return len(sizes), sum(sizes)

    def damaged(self) -> int:
        """How many files were set aside because they failed verification."""
        return sum(1 for _ in (self.root / "quarantine").iterdir())

    def sweep(self) -> None:
        """Remove what killed writers left behind an hour ago or earlier."""
        for path in (self.root / "tmp").iterdir():
            with suppress(FileNotFoundError):  # its writer is slow, and done now
                if path.stat().st_mtime < time.time() - STALE_SECONDS:
                    path.unlink()

    def path(self, space: Space, name: str) -> Path:
        """Where the bytes of a name are; ValueError if it is none."""
        return self.root / space / checked(name)

    def _names(self, space: Space) -> Iterator[str]:
        names = (path.name for path in (self.root / space).iterdir())
        return iter(sorted(name for name in names if KEY.fullmatch(name)))

    def _write(self, path: Path, content: bytes) -> None:
        with replacing(path, by=self.root / "tmp", mode=0o444) as file:
            file.write(content)

    def _set_aside(self, space: Space, name: str) -> None:
        path = self.path(space, name)
        aside = self.root / "quarantine" / f"{name}.{time.time_ns()}"
        with suppress(FileNotFoundError):
            path.rename(aside)
            # A writer may have repaired it since it was read.
            if fault(space, name, aside.read_bytes()) is None:
                aside.rename(path)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file so that readers see the old bytes or the new ones, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, by: Path | None = None, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write, in the folder `by` (else beside `path`), which then takes the name `path`.

    It does so once all of it is on disk, and not at all if the block raises.
    """
    handle, name = tempfile.mkstemp(dir=by or path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # a full disk, say
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _touch(path: Path) -> None:
    with suppress(OSError):  # removed meanwhile, or a folder that may only be read
        if path.stat().st_mtime < time.time() - USE_SECONDS:
            os.utime(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
