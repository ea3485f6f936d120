"""A store behind HTTP: GET and PUT of /ac/<key> and /cas/<sha256>, as Bazel's caches have them.

Nothing is believed: what comes is verified, and what is put is always sent, since a cache that says
that it has an object may hold it damaged.
"""

import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from services.store.base import Space, Store, Unreachable, checked, fault
from services.store.folder import write_atomic

SECONDS = httpx.Timeout(30.0, connect=5.0)
# How long to wait before another try, each time.
WAITS = (0.1, 0.5, 2.0)
ABSENT = frozenset({httpx.codes.NOT_FOUND, httpx.codes.GONE})
REFUSED = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})


class Answer(NamedTuple):
    """What came back: the status and the whole body."""

    status: int
    content: bytes

    @property
    def passing(self) -> bool:
        """Whether the same question may have another answer in a moment."""
        return self.status >= 500 or self.status == httpx.codes.TOO_MANY_REQUESTS


class Remote(Store):
    """The cache at a URL. Answers of more than `limit` bytes are refused.

    A token is sent as `Authorization: Bearer`, a name and password in the URL as basic
    authentication. What arrives damaged is kept in `quarantine` and counts as absent.
    """

    def __init__(
        self,
        url: str,
        token: str,
        limit: int,
        quarantine: Path,
        waits: Sequence[float] = WAITS,
    ) -> None:
        self.address = str(httpx.URL(url).copy_with(userinfo=b""))
        self._limit = limit
        self._quarantine = quarantine
        self._waits = waits
        headers = {"Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(base_url=url, headers=headers, timeout=SECONDS)
        weakref.finalize(self, self._client.close)

    def get(self, space: Space, name: str) -> bytes | None:
        """The verified bytes; Unreachable unless the cache says that they are there or not."""
        answer = self._ask("GET", space, name)
        if answer.status in ABSENT:
            return None
        if answer.status != httpx.codes.OK:
            raise self._unreachable("GET", space, name, _reason(answer.status))
        if fault(space, name, answer.content) is None:
            return answer.content
        write_atomic(self._quarantine / f"{name}.{time.time_ns()}", answer.content)
        return None

    def set(self, space: Space, name: str, content: bytes) -> None:
        """Send the bytes; Unreachable unless the cache says that it has them now."""
        why = fault(space, name, content)
        if why is not None:
            raise ValueError(why)
        answer = self._ask("PUT", space, name, content)
        if not httpx.codes.is_success(answer.status):
            raise self._unreachable("PUT", space, name, _reason(answer.status))

    def _ask(self, verb: str, space: Space, name: str, content: bytes | None = None) -> Answer:
        """The answer, a passing one only after the last try."""
        path = f"{space}/{checked(name)}"
        for wait in (*self._waits, None):
            try:
                answer = self._once(verb, path, content)
                if not answer.passing or wait is None:
                    return answer
            except httpx.TransportError as error:
                if wait is None:
                    why = str(error) or type(error).__name__
                    raise self._unreachable(verb, space, name, why) from None
            time.sleep(wait)
        raise AssertionError("the last try answers or raises")

    def _once(self, verb: str, path: str, content: bytes | None) -> Answer:
        with self._client.stream(verb, path, content=content) as answer:
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > self._limit:
                    raise Unreachable(
                        f"the store at {self.address} answers {verb} {path} with more than "
                        f"{self._limit} bytes: see TILUS_ARTIFACT_LIMIT"
                    )
            return Answer(answer.status_code, bytes(body))

    def _unreachable(self, verb: str, space: Space, name: str, why: str) -> Unreachable:
        return Unreachable(f"the store at {self.address}: {verb} {space}/{name[:12]}: {why}")


def _reason(status: int) -> str:
    phrase = f"{status} {httpx.codes.get_reason_phrase(status)}"
    return f"{phrase}: set TILUS_STORE_TOKEN" if status in REFUSED else phrase
