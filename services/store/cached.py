"""A folder in front of another store."""

from pathlib import Path

from services.messages import Manifest
from services.store.base import Damaged, Space, Store
from services.store.folder import Folder


class Cached(Folder):
    """What is read stays in the folder, what is put goes behind it first.

    So what was put here is also there. What is whole here is read without asking behind, and what
    is damaged here is fetched again.
    """

    def __init__(self, root: Path, behind: Store) -> None:
        super().__init__(root)
        self.behind = behind
        self.here = Folder(root)

    def get(self, space: Space, name: str) -> bytes | None:
        """The verified bytes from here, else from behind; objects then stay here."""
        content = self.here.get(space, name)
        if content is not None:
            return content
        content = self.behind.get(space, name)
        if content is not None and space == "cas":  # a manifest comes after all of its files
            self.here.set(space, name, content)
        return content

    def set(self, space: Space, name: str, content: bytes) -> None:
        """Store the bytes behind, then here."""
        self.behind.set(space, name, content)
        self.here.set(space, name, content)

    def get_manifest(self, key: str) -> Manifest | None:
        """The manifest that is whole here, else the one that is whole behind, which then is here.

        They may differ: whoever compiles again may get other bytes.
        """
        found = self.here.get_manifest(key)
        if found is not None:
            return found
        found = self.behind.manifest(key)
        if found is None:
            return None
        try:
            files = {name: self.read(found, name) for name in found.files}
        except Damaged:
            return None
        return self.here.put(found, files)

    def share(self, manifest: Manifest) -> Manifest:
        """Put the artifact behind unless it is there whole: a cache may lose what it was given."""
        if self.behind.get_manifest(manifest.key) is None:
            files = {name: self.here.read(manifest, name) for name in manifest.files}
            self.behind.put(manifest, files)
        return manifest
