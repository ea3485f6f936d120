"""The artifact store: `ac/<key>` says what was built, `cas/<sha256>` holds the bytes.

The two spaces and their verbs are those of Bazel's HTTP caches, so that any such cache can be the
far end. Everything is verified when it is read, appears whole or not at all, and is never
unpickled; what fails verification is set aside and counts as absent.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from services.settings import Settings
from services.store.base import (
    Damaged,
    Space,
    Store,
    Unreachable,
    fault,
    seal,
    unseal,
)
from services.store.cached import Cached
from services.store.folder import Folder, write_atomic
from services.store.remote import Remote

__all__ = [
    "Cached",
    "Damaged",
    "Folder",
    "Remote",
    "Space",
    "Store",
    "Unreachable",
    "fault",
    "open_store",
    "seal",
    "unseal",
    "write_atomic",
]


def open_store(settings: Settings) -> Folder:
    """The store of this process: the folder, alone or in front of what STORE_URL names."""
    url = settings.store_url
    match urlsplit(url):
        case ("", "", "", _, _):
            return Folder(settings.store)
        case ("", "", path, _, _) | ("file", "" | "localhost", path, _, _):
            return Folder(Path(unquote(path) if url.startswith("file:") else url))
        case ("http" | "https", host, _, _, _) if host:
            aside = settings.store / "quarantine"
            token = settings.store_token.get_secret_value()
            return Cached(settings.store, Remote(url, token, settings.artifact_limit, aside))
        case _:
            raise ValueError(
                "STORE_URL is a folder, file:///FOLDER, or http:// or https:// with a host and "
                "perhaps a path"
            )
