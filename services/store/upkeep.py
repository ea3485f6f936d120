"""Looking after a folder: is everything in it whole, and what of it may go."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from services.store.folder import STALE_SECONDS, Folder


class Findings(NamedTuple):
    """What a verification found; what was damaged, as in `cas/<sha256>`, is in quarantine now."""

    artifacts: list[str]
    objects: list[str]
    damaged: list[str]
    incomplete: list[str]
    unnamed: list[str]

    @property
    def good(self) -> bool:
        """Whether all that there is can be used."""
        return not self.damaged and not self.incomplete


class Entry(NamedTuple):
    """A manifest: when it was last used, its own bytes, the objects it names."""

    used: float
    key: str
    size: int
    objects: frozenset[str]


class Collected(NamedTuple):
    """What went, and how many bytes are left."""

    artifacts: list[str]
    objects: list[str]
    bytes: int
    left: int


def verify(folder: Folder) -> Findings:
    """Read every byte: which artifacts are whole, which are not, which objects nobody names."""
    keys = list(folder.every_key())  # before the objects: files are written before manifests
    objects = list(folder.every_object())
    whole = {name for name in objects if folder.look("cas", name) is not None}
    manifests = {key: folder.known(key) for key in keys}
    named = {key: set(one.files.values()) for key, one in manifests.items() if one is not None}
    return Findings(
        artifacts=[key for key, names in named.items() if names <= whole],
        objects=sorted(whole),
        damaged=[f"ac/{key}" for key in keys if key not in named]
        + [f"cas/{name}" for name in objects if name not in whole],
        incomplete=[key for key, names in named.items() if not names <= whole],
        unnamed=sorted(whole.difference(*named.values())),
    )


def collect(
    folder: Folder,
    max_bytes: float,
    max_age: float,
    *,
    grace: float = STALE_SECONDS,
    dry: bool = False,
) -> Collected:
    """Remove artifacts unused for `max_age` seconds, then the least recently used ones until the
    folder has at most `max_bytes`; with them the objects that no manifest names any more.

    What was used or written in the last `grace` seconds stays: an upload may be under way, its
    manifest still to come. `dry` only says what would go.
    """
    folder.sweep()
    with folder.locked(exclusive=True):
        now = time.time()
        sizes = {name: folder.path("cas", name).stat() for name in folder.every_object()}
        entries = sorted(_entries(folder), reverse=True)
        kept: list[Entry] = []
        held = {name for name, stat in sizes.items() if stat.st_mtime > now - grace}
        left = sum(sizes[name].st_size for name in held)
        for entry in entries:
            new = entry.objects & sizes.keys() - held
            size = left + entry.size + sum(sizes[name].st_size for name in new)
            fits = size <= max_bytes and entry.used >= now - max_age
            if not fits and entry.used <= now - grace:
                break
            kept.append(entry)
            held |= new
            left = size
        gone = [entry.key for entry in entries[len(kept) :]]
        lost = sorted(sizes.keys() - held)
        freed = sum(entry.size for entry in entries[len(kept) :])
        freed += sum(sizes[name].st_size for name in lost)
        if not dry:
            # Manifests first: killed in between, objects without a name are left, not the reverse.
            _remove(folder.path("ac", key) for key in gone)
            _remove(folder.path("cas", name) for name in lost)
            _remove(_older(folder.root / "quarantine", now - max_age))
    return Collected(gone, lost, freed, left)


def _entries(folder: Folder) -> Iterator[Entry]:
    for key in folder.every_key():
        manifest = folder.known(key)
        if manifest is None:
            continue
        stat = folder.path("ac", key).stat()
        yield Entry(stat.st_mtime, key, stat.st_size, frozenset(manifest.files.values()))


def _older(folder: Path, moment: float) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.stat().st_mtime < moment)


def _remove(paths: Iterator[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
