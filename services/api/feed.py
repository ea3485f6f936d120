"""How topics stand, told to many listeners as it changes.

What is sent is how a topic stands, whole, under a number that grows. So whoever comes back with the
last number that it saw is sent what changed since, and whoever is slow is sent the newest of each
topic and nothing that holds no more: nothing is kept for a listener.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from threading import Lock
from typing import NamedTuple

from pydantic import JsonValue

LOOK_SECONDS = 0.5


class Topic(NamedTuple):
    """What events are about: their kind, and which one of that kind."""

    kind: str
    name: str


class Event(NamedTuple):
    """How a topic stands since the event of that number."""

    number: int
    topic: Topic
    data: JsonValue


class Feed:
    """The newest event of each topic that `look` finds.

    However many listen, `look` is called once at a time, and no more often than LOOK_SECONDS.
    """

    def __init__(self, look: Callable[[], Mapping[Topic, JsonValue]]) -> None:
        self._look = look
        self._looking = Lock()
        self._looked = -LOOK_SECONDS
        self._number = 0
        self._events: dict[Topic, Event] = {}
        # numbers are of this process: those of another mean nothing here
        self._epoch = secrets.token_hex(4)

    def identity(self, event: Event) -> str:
        """What a listener remembers of an event."""
        return f"{self._epoch}-{event.number}"

    def number(self, identity: str) -> int:
        """The number of a remembered event; 0, from the beginning, for what was none here."""
        found = re.fullmatch(rf"{self._epoch}-(\d{{1,15}})", identity)
        return int(found[1]) if found else 0

    async def follow(self, number: int) -> AsyncIterator[Event]:
        """What changed after the event of that number, then what changes, for ever."""
        while True:
            await self._refresh()
            for event in self.since(number):
                yield event
                number = event.number
            await asyncio.sleep(LOOK_SECONDS)

    def since(self, number: int) -> list[Event]:
        """The newest event of each topic that changed after that one, in order."""
        return sorted(event for event in self._events.values() if event.number > number)

    async def _refresh(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._note(await asyncio.to_thread(self._look))
            self._looked = time.monotonic()
        finally:
            self._looking.release()

    def _note(self, found: Mapping[Topic, JsonValue]) -> None:
        events = {}
        for topic, data in found.items():
            known = self._events.get(topic)
            if known is None or known.data != data:
                self._number += 1
                known = Event(self._number, topic, data)
            events[topic] = known
        self._events = events
