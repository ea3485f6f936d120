"""The artifact store: `ac/<key>` says what was built, `cas/<sha256>` holds the bytes.

A folder that many processes write at once. Files appear whole or not at all, every read is
verified, nothing is unpickled, and what fails verification is set aside and counts as absent.
"""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from services.messages import Manifest, digest

KEY = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
STALE_SECONDS = 3600


class Damaged(Exception):
    """Stored bytes that are gone or are not what their digest says."""


class Store:
    """A content-addressed folder; two stores on one folder are the same store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("ac", "cas", "tmp", "locks", "quarantine"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def get_manifest(self, key: str) -> Manifest | None:
        """What is stored under `key`, with all of its files verified; None if it is not whole."""
        manifest = self._manifest(key)
        if manifest is None:
            return None
        try:
            for name in manifest.files:
                self.read(manifest, name)
        except Damaged:
            return None
        return manifest

    def put(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Store the files, then the manifest that names them; returns it with the digests."""
        for name in files:
            if not NAME.fullmatch(name):
                raise ValueError(f"a stored file cannot be called {name!r}: letters, digits, ._-")
        digests = {name: self._put_bytes(content) for name, content in sorted(files.items())}
        stored = manifest.model_copy(update={"files": digests})
        text = stored.canonical().encode()
        self._write(self._ac(stored.key), digest(text).encode() + b"\n" + text)
        return stored

    def read(self, manifest: Manifest, name: str) -> bytes:
        """The verified bytes of one file of a manifest; Damaged if they cannot be had."""
        expected = manifest.files[name]
        path = self._cas(expected)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise Damaged(f"{name} of {manifest.key[:12]} is gone: compile it again") from None
        if digest(content) != expected:
            self._quarantine(path)
            raise Damaged(f"{name} of {manifest.key[:12]} was damaged: compile it again")
        return content

    def every_key(self) -> Iterator[str]:
        """Every key that has a manifest, whole or not, in order."""
        return iter(sorted(path.name for path in (self.root / "ac").iterdir()))

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """One builder of a key at a time, across processes; a killed holder lets go."""
        with (self.root / "locks" / _checked(key)).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
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
            if path.stat().st_mtime < time.time() - STALE_SECONDS:
                path.unlink(missing_ok=True)

    def _manifest(self, key: str) -> Manifest | None:
        path = self._ac(key)
        try:
            expected, _, text = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        manifest = _parse(text) if digest(text).encode() == expected else None
        if manifest is None or manifest.key != key:
            self._quarantine(path)
            return None
        return manifest

    def _put_bytes(self, content: bytes) -> str:
        name = digest(content)
        path = self._cas(name)
        if not path.exists() or digest(path.read_bytes()) != name:
            self._write(path, content)
        return name

    def _write(self, path: Path, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        _sync_folder(path.parent)

    def _quarantine(self, path: Path) -> None:
        aside = self.root / "quarantine" / f"{path.name}.{time.time_ns()}"
        try:
            path.rename(aside)
        except FileNotFoundError:
            return

    def _ac(self, key: str) -> Path:
        return self.root / "ac" / _checked(key)

    def _cas(self, name: str) -> Path:
        return self.root / "cas" / _checked(name)


def check_key(kernel_key: str) -> str:
    """The name under which a store keeps what the CPU check of a kernel found."""
    return digest(f"check {kernel_key}".encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file so that readers see the old bytes or the new ones, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    Path(temporary).replace(path)
    _sync_folder(path.parent)


def _parse(text: bytes) -> Manifest | None:
    try:
        return Manifest.model_validate_json(text)
    except ValidationError:
        return None


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"a key is 64 lower-case hex digits, not {key!r}")
    return key


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
