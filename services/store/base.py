"""What a store is: an end that gets and sets verified bytes, and artifacts made of these.

An artifact is a manifest under its key in `ac` and the files that it names, by their digests, in
`cas`. A manifest is sealed: its own digest stands in a line before it.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pydantic import ValidationError

from services.messages import FILE_NAME, Manifest, digest

Space = Literal["ac", "cas"]

KEY = re.compile(r"[0-9a-f]{64}")


class Damaged(Exception):
    """Stored bytes that are gone or are not what their digest says."""


class Unreachable(ConnectionError):
    """A far end that does not answer, or does not do as it is asked: the artifact is not at fault.

    Another try may help.
    """


class Store(ABC):
    """Artifacts by key. An end defines `get` and `set`; the rest follows from them."""

    @abstractmethod
    def get(self, space: Space, name: str) -> bytes | None:
        """The bytes under a name, every one verified; None if they are absent or damaged."""

    @abstractmethod
    def set(self, space: Space, name: str, content: bytes) -> None:
        """Store the bytes under a name, whole or not at all; ValueError unless they belong there.

        What stands there already is replaced if it is damaged, or is a manifest.
        """

    def manifest(self, key: str) -> Manifest | None:
        """What `key` names, its files not looked at; None if it is absent."""
        sealed = self.get("ac", key)
        return None if sealed is None else unseal(sealed)

    def get_manifest(self, key: str) -> Manifest | None:
        """What is stored under `key`, with all of its files verified; None if it is not whole."""
        manifest = self.manifest(key)
        if manifest is None:
            return None
        try:
            for name in manifest.files:
                self.read(manifest, name)
        except Damaged:
            return None
        return manifest

    def read(self, manifest: Manifest, name: str) -> bytes:
        """The verified bytes of one file of a manifest; Damaged if they cannot be had."""
        content = self.get("cas", manifest.files[name])
        if content is None:
            raise Damaged(f"{name} of {manifest.key[:12]} is gone or was damaged: compile it again")
        return content

    def put(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Store the files, then the manifest that names them; returns it with the digests."""
        for name in files:
            if not re.fullmatch(FILE_NAME, name):
                raise ValueError(f"a stored file cannot be called {name!r}: letters, digits, ._-")
        digests = {name: digest(content) for name, content in sorted(files.items())}
        for name, content in files.items():
            self.set("cas", digests[name], content)
        stored = manifest.model_copy(update={"files": digests})
        self.set("ac", stored.key, seal(stored))
        return stored

    def share(self, manifest: Manifest) -> Manifest:
        """The manifest of what is whole here, once whoever else reads this store finds it too."""
        return manifest

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """One builder of a key at a time, as far as this end can see to it: here, not at all."""
        yield


def seal(manifest: Manifest) -> bytes:
    """A manifest as it is stored: its digest, a line end, its canonical text."""
    text = manifest.canonical().encode()
    return digest(text).encode() + b"\n" + text


def unseal(sealed: bytes) -> Manifest | None:
    """The manifest; None if the digest before it is not its own."""
    expected, _, text = sealed.partition(b"\n")
    if digest(text).encode() != expected:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError:
        return None


def fault(space: Space, name: str, content: bytes) -> str | None:
    """Why the bytes do not belong under the name, in a sentence; None if they do."""
    if space == "cas":
        found = digest(content)
        return None if found == name else f"these bytes have the digest {found}, not {name}"
    manifest = unseal(content)
    if manifest is None:
        return "this is no manifest with its digest in a line before it"
    return None if manifest.key == name else f"this is the manifest of {manifest.key}, not {name}"


def checked(name: str) -> str:
    """The name itself, if it is one; ValueError if it is not."""
    if not KEY.fullmatch(name):
        raise ValueError(f"a key is 64 lower-case hex digits, not {name!r}")
    return name
