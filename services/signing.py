"""Work is signed: whoever can write to the queue's server cannot make work without the key."""

import hmac
import json
from typing import Protocol

from pydantic import JsonValue


class Forged(ValueError):
    """Bytes that were not signed with the key of this fleet, or were changed since."""


class Unsigned(ValueError):
    """A queue that others may reach, and no key to know this fleet's work by."""


class Serializer(Protocol):
    """How a value becomes the bytes of a job, and back."""

    def dumps(self, value: JsonValue, /) -> bytes:
        """The value as bytes."""
        ...

    def loads(self, data: bytes, /) -> JsonValue:
        """The value again; raises for bytes that `dumps` did not make."""
        ...


class Plain:
    """JSON as it is, for a server that only this user can reach."""

    def __init__(self) -> None:
        self.__qualname__ = "Plain"  # RQ wants to know

    def dumps(self, value: JsonValue, /) -> bytes:
        """The value as JSON."""
        return json.dumps(value).encode()

    def loads(self, data: bytes, /) -> JsonValue:
        """The value again."""
        value: JsonValue = json.loads(data)
        return value


class Signed:
    """JSON behind its HMAC-SHA256: 64 hex digits, a space, the text."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self.__qualname__ = "Signed"

    def dumps(self, value: JsonValue, /) -> bytes:
        """The value as JSON, signed."""
        text = json.dumps(value).encode()
        return self._mark(text) + b" " + text

    def loads(self, data: bytes, /) -> JsonValue:
        """The value again; Forged unless the text bears the mark of this key."""
        mark, _, text = data.partition(b" ")
        if not hmac.compare_digest(mark, self._mark(text)):
            raise Forged("it does not bear the mark of this fleet's key")
        value: JsonValue = json.loads(text)
        return value

    def _mark(self, text: bytes) -> bytes:
        return hmac.new(self._key, text, "sha256").hexdigest().encode()


def serializer(url: str, key: str) -> Serializer:
    """How the jobs at the server `url` are written: signed, or plain on a private socket."""
    if key:
        return Signed(key)
    if not url or url.startswith("unix:"):
        return Plain()
    raise Unsigned(
        "work that comes over a network is signed: give every service of the fleet the same "
        "TILUS_QUEUE_KEY, or the file /run/secrets/tilus_queue_key"
    )
