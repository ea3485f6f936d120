"""Artifacts in one file that travels: a tar of `index.json`, then `cas/...`, then `ac/...`.

The index has the size and SHA-256 of everything else in the file. Equal artifacts make equal
bundles, byte for byte. A bundle is data from elsewhere: nothing is extracted, and everything is
verified before anything of it is stored.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

from pydantic import Field, ValidationError

from services.messages import Data, Key, digest
from services.store.base import Damaged, Space, Store, fault, unseal
from services.store.folder import Folder, replacing

INDEX = "index.json"
INDEX_BYTES = 64 << 20
FORMAT = tarfile.USTAR_FORMAT

Name = Annotated[str, Field(pattern=r"^(ac|cas)/[0-9a-f]{64}$")]


class BadBundle(Exception):
    """A file that is no bundle, or a damaged one: says what is wrong with it."""


class Piece(Data):
    """What the index says of one file of the bundle."""

    size: int = Field(ge=0)
    sha256: Key


class Index(Data):
    """What is in a bundle."""

    version: Literal[1] = 1
    made_by: str = ""
    pieces: dict[Name, Piece]


class Content(NamedTuple):
    """One file of a bundle that belongs where it says."""

    space: Space
    name: str
    content: bytes


def export(folder: Folder, keys: Iterable[str], path: Path, made_by: str) -> list[str]:
    """Write the artifacts of these keys that are whole into one file; returns their keys."""
    with folder.locked(exclusive=False):
        sealed, sizes = _whole(folder, keys)
        pieces = {f"cas/{name}": Piece(size=size, sha256=name) for name, size in sizes.items()} | {
            f"ac/{key}": Piece(size=len(content), sha256=digest(content))
            for key, content in sealed.items()
        }
        index = Index(made_by=made_by, pieces=pieces)
        text = json.dumps(index.model_dump(), indent=1, sort_keys=True).encode() + b"\n"
        with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=FORMAT) as tar:
            _add(tar, INDEX, text)
            for name in sorted(sizes):
                _add(tar, f"cas/{name}", _still_there(folder, name))
            for key in sorted(sealed):
                _add(tar, f"ac/{key}", sealed[key])
    return sorted(sealed)


def load(path: Path, store: Store, limit: int) -> list[str]:
    """Store what a bundle holds, after all of it is verified; returns the keys.

    `limit` bounds the bytes of one file. If anything is wrong: BadBundle, and nothing is stored.
    """
    with path.open("rb") as file:
        for _ in contents(file, limit):
            pass
        file.seek(0)
        keys = []
        for piece in contents(file, limit):
            store.set(*piece)
            if piece.space == "ac":
                keys.append(piece.name)
    return keys


def contents(file: BinaryIO, limit: int) -> Iterator[Content]:
    """What is in a bundle, verified piece by piece; BadBundle where it is not as it should be.

    A manifest comes after all of its files. That everything in the index was there is only known
    at the end.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from _contents(tar, limit)
    except (tarfile.TarError, EOFError, OverflowError, UnicodeError, ValueError) as error:
        raise BadBundle(f"this is no tar, or a damaged one: {error}") from None


def _contents(tar: tarfile.TarFile, limit: int) -> Iterator[Content]:
    members = iter(tar)
    index = _index(tar, next(members, None))
    awaited = dict(index.pieces)
    seen: set[str] = set()
    for member in members:
        if member.name not in awaited:
            raise BadBundle(f"{member.name!r} is not in the index, or here for the second time")
        piece = awaited.pop(member.name)
        if piece.size > limit:
            raise BadBundle(f"{member.name} has {piece.size} bytes, at most {limit} are taken")
        content = _read(tar, member, piece.size)
        if digest(content) != piece.sha256:
            raise BadBundle(f"{member.name} is not what the index says")
        found = _content(member.name, content)
        manifest = unseal(content) if found.space == "ac" else None
        if manifest is not None and not seen.issuperset(manifest.files.values()):
            raise BadBundle(f"files that {member.name} names do not stand before it")
        if found.space == "cas":
            seen.add(found.name)
        yield found
    if awaited:
        raise BadBundle(f"{len(awaited)} of {len(index.pieces)} files of the index are not here")


def _index(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> Index:
    if member is None or member.name != INDEX or member.size > INDEX_BYTES:
        raise BadBundle(f"a bundle begins with {INDEX}")
    try:
        return Index.model_validate_json(_read(tar, member, member.size))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadBundle(f"the index: {field}: {first['msg']}") from None


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    file = tar.extractfile(member) if member.isreg() and member.size == size else None
    if file is None:
        raise BadBundle(f"{member.name!r} is no file of {size} bytes")
    return file.read()


def _content(path: str, content: bytes) -> Content:
    folder, _, name = path.partition("/")
    space: Space = "ac" if folder == "ac" else "cas"
    why = fault(space, name, content)
    if why is not None:
        raise BadBundle(f"{path}: {why}")
    return Content(space, name, content)


def _whole(folder: Folder, keys: Iterable[str]) -> tuple[dict[str, bytes], dict[str, int]]:
    """The sealed manifests of those artifacts that are whole, and the sizes of their files."""
    manifests: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    for key in keys:
        sealed = folder.look("ac", key)
        manifest = None if sealed is None else unseal(sealed)
        if sealed is None or manifest is None:
            continue
        files = {name: folder.look("cas", name) for name in manifest.files.values()}
        found = {name: len(content) for name, content in files.items() if content is not None}
        if len(found) == len(files):
            manifests[key] = sealed
            sizes |= found
    return manifests, sizes


def _still_there(folder: Folder, name: str) -> bytes:
    content = folder.look("cas", name)
    if content is None:
        raise Damaged(f"the object {name} was damaged meanwhile: export again")
    return content


def _add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(content), 0o444
    tar.addfile(member, io.BytesIO(content))
