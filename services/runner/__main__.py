"""One runner: `python -m services.runner`; it serves the queue of one kind of GPU.

It begins once the GPU passes its canary, and ends with 3 if that does not.
"""

import sys
from argparse import ArgumentParser
from importlib import import_module
from importlib.util import find_spec

from services.gpu import devices
from services.queue import measure_queue
from services.records import gpu_folder
from services.settings import Settings, load
from services.worker import serve


def main(arguments: list[str]) -> int:
    """Serve until told to stop; PyTorch is imported once, CUDA is left to the children."""
    parser = ArgumentParser(prog="python -m services.runner", description=__doc__)
    parser.add_argument("--gpu", metavar="NAME", help="the queue's GPU, as its records' folder")
    parser.add_argument("--device", metavar="INDEX", type=int, default=0, help="a GPU of this host")
    asked = parser.parse_args(arguments)
    here = {device.index: device for device in devices()}
    device = here.get(asked.device)
    gpu = asked.gpu or (gpu_folder(device.name) if device else None)
    if gpu is None:
        shown = {index: gpu_folder(one.name) for index, one in here.items()}
        print(f"there is no GPU {asked.device} here: nvidia-smi shows {shown}", file=sys.stderr)
        return 3
    if find_spec("torch") is None:
        print("measuring needs PyTorch with CUDA: install torch", file=sys.stderr)
        return 3
    for package in ("torch", "services.runner.jobs"):
        import_module(package)
    settings = load()
    why = ask(device.uuid, settings) if device else None
    if device and why is not None:
        print(f"{device.uuid} is not fit to be measured on: {why}", file=sys.stderr)
        return 3
    serve(
        measure_queue(gpu),
        settings.redis_url,
        settings.redis_password.get_secret_value(),
        settings.queue_key.get_secret_value(),
        drain_seconds=settings.drain_seconds,
    )
    return 0


def ask(uuid: str, settings: Settings) -> str | None:
    """Why a device is not fit, which the API is told; None if it is."""
    jobs = import_module("services.runner.jobs")
    at = jobs.house(settings)
    with jobs.locked(at.locks, uuid):
        why: str | None = at.canary(uuid)
    jobs.tell(uuid, why, settings)
    return why


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
