"""What everything that asks about runs and kernels stands on."""

from collections.abc import Mapping
from dataclasses import dataclass

from redis import Redis

from services.executors.base import Executor
from services.queue import FleetQueue
from services.settings import Settings
from services.signing import serializer
from services.store import Folder


@dataclass(frozen=True)
class Fleet:
    """What a run is worked out from: the knobs, the artifacts, the queue, the executors."""

    settings: Settings
    store: Folder
    connection: Redis
    executors: Mapping[str, Executor]

    def queue(self, name: str) -> FleetQueue:
        """A queue of this fleet, whose jobs are written as its workers expect them."""
        settings = self.settings
        written = serializer(settings.redis_url, settings.queue_key.get_secret_value())
        return FleetQueue(name, self.connection, written)
