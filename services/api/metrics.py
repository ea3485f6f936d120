"""/metrics: what the fleet does, in the text format of Prometheus.

Counts of work come from the queue's server, where workers leave them, and begin again with it.
"""

from collections.abc import Iterator
from threading import Lock

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services import notes
from services.fleet import Fleet
from services.messages import Task
from services.notes import SECONDS
from services.queue import alive, names

CONTENT = "text/plain; version=0.0.4; charset=utf-8"
STORED = frozenset({"compile", "check"})


class Asked:
    """How many results were asked for, by whether the store had them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.hits = 0
        self.misses = 0

    def count(self, tasks: tuple[Task, ...]) -> None:
        """Count what the store keeps results of."""
        stored = [task.stored for task in tasks if task.kind in STORED]
        with self._lock:
            self.hits += sum(stored)
            self.misses += len(stored) - sum(stored)


class Fleetwide(Collector):
    """Reads the queue and the store each time that it is asked."""

    def __init__(self, fleet: Fleet, asked: Asked) -> None:
        self._fleet = fleet
        self._asked = asked

    def collect(self) -> Iterator[Metric]:
        """Every number of the fleet."""
        yield from self._queues()
        yield from self._work()
        yield from self._store()

    def _queues(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "tilus_queue_length", "pieces of work that wait", labels=["queue"]
        )
        workers = GaugeMetricFamily("tilus_workers", "workers that are alive", labels=["queue"])
        for name in names(self._fleet.connection):
            waiting.add_metric([name], notes.waiting(self._fleet.connection, name))
            workers.add_metric([name], alive(self._fleet.queue(name)))
        yield waiting
        yield workers
        healthy = GaugeMetricFamily(
            "tilus_gpu_healthy", "1 if the GPU passed when it was last asked", labels=["uuid"]
        )
        for uuid, why in sorted(notes.devices(self._fleet.connection).items()):
            healthy.add_metric([uuid], float(why is None))
        yield healthy

    def _work(self) -> Iterator[Metric]:
        jobs = CounterMetricFamily(
            "tilus_jobs", "pieces of work that ended", labels=["function", "state", "cause"]
        )
        for end in notes.ends(self._fleet.connection):
            jobs.add_metric([_short(end.function), end.state, end.cause or ""], end.number)
        yield jobs
        seconds = HistogramMetricFamily(
            "tilus_job_seconds", "seconds that one piece of work took", labels=["function"]
        )
        for took in notes.took(self._fleet.connection):
            ends = ["+Inf" if end == float("inf") else str(end) for end in SECONDS]
            below = [sum(took.numbers[: i + 1]) for i in range(len(ends))]
            seconds.add_metric(
                [_short(took.function)], list(zip(ends, below, strict=True)), took.seconds
            )
        yield seconds

    def _store(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "tilus_store_hits", "results asked for that were stored", value=self._asked.hits
        )
        yield CounterMetricFamily(
            "tilus_store_misses", "results asked for that had to be made", value=self._asked.misses
        )
        objects, size = self._fleet.store.size()
        yield GaugeMetricFamily("tilus_store_bytes", "bytes of the stored files", value=size)
        yield GaugeMetricFamily("tilus_store_objects", "stored files", value=objects)
        yield GaugeMetricFamily(
            "tilus_store_quarantined",
            "files set aside as damaged",
            value=self._fleet.store.damaged(),
        )


def router(fleet: Fleet, asked: Asked) -> APIRouter:
    """The route /metrics."""
    routes = APIRouter(tags=["health"])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Fleetwide(fleet, asked))

    @routes.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Queues, work, workers and store, in the text format of Prometheus.

        `tilus_queue_length{queue}`, `tilus_workers{queue}`, `tilus_gpu_healthy{uuid}`;
        `tilus_jobs_total{function,state,cause}` and the histogram `tilus_job_seconds{function}`
        (build, check, measure, draw);
        `tilus_store_hits_total`, `tilus_store_misses_total`, `tilus_store_bytes`,
        `tilus_store_objects`, `tilus_store_quarantined`.
        """
        return PlainTextResponse(generate_latest(registry), media_type=CONTENT)

    return routes


def _short(function: str) -> str:
    return function.rpartition(".")[2]
