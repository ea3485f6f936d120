"""One compile worker: `python -m services.compiler`."""

from services.compiler import jobs
from services.queue import COMPILE
from services.settings import load
from services.worker import Bounds, serve


def main() -> None:
    """Serve the compile queue; the forked children find everything already imported."""
    settings = load()
    assert jobs.build.__module__ == "services.compiler.jobs"
    serve(
        COMPILE,
        settings.redis_url,
        settings.redis_password.get_secret_value(),
        settings.queue_key.get_secret_value(),
        bounds=Bounds(settings.compile_memory, settings.artifact_limit),
        drain_seconds=settings.drain_seconds,
    )


if __name__ == "__main__":
    main()
