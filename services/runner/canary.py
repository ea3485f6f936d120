"""Whether a GPU still computes: a kernel whose every bit is known, in a child with a time limit."""

from importlib import import_module

import numpy as np

from services.building import build_kernel, built_kernel
from services.executors import EXECUTORS
from services.executors.base import Built
from services.gpu import devices
from services.messages import KernelSpec
from services.revision import Revision
from services.runner import child
from services.runner.bench import take_device
from services.store import Store
from tilus.kernels import LIBRARY

CANARY = "canary"
SECONDS = 30.0  # to make a context on a machine of many GPUs; the kernel takes less than 1 ms
SEED = 7


class NoDevice(Exception):
    """nvidia-smi does not show the device."""


def library_spec(name: str, arch: str) -> KernelSpec:
    """A kernel of the library that has no parameters."""
    return KernelSpec(executor="tilus", kernel=name, parameters={}, arch=arch)


def library_kernel(name: str, uuid: str, store: Store, at: Revision) -> Built:
    """A kernel of the library for a GPU of this machine, compiled here if no one has."""
    arch = next((device.arch for device in devices() if device.uuid == uuid), None)
    if arch is None:
        raise NoDevice(f"nvidia-smi shows no GPU {uuid}")
    spec = library_spec(name, arch)
    key = EXECUTORS[spec.executor].key(spec)
    built = built_kernel(store, key)
    if built is None:
        build_kernel(spec, store, EXECUTORS, at.commit)
        built = built_kernel(store, key)
    if built is None:
        raise OSError(f"{name} was compiled and is not in the store")
    return built


def fault(uuid: str, store: Store, at: Revision, seconds: float = SECONDS) -> str | None:
    """Why the device is not to be used, in a sentence; None if it passes."""
    try:
        built = library_kernel(CANARY, uuid, store, at)
        end = child.run(lambda send: send({"wrong": wrong(uuid, built)}), seconds)
    except (NoDevice, child.Unkillable) as error:
        return str(error)
    return verdict(end, seconds)


def verdict(end: child.End, seconds: float) -> str | None:
    """What the end of the child says of the device."""
    for event in end.events:
        if "error" in event:
            return f"its canary failed: {event['error']}"
        if event.get("wrong"):
            return f"its canary has {event['wrong']} wrong words"
    match end:
        case child.End("timeout"):
            return f"its canary has no end after {seconds:.0f} s"
        case child.End("exit", "0") if end.events:
            return None
    return f"its canary ended with {end.detail}"


def wrong(uuid: str, built: Built) -> int:
    """How many words of the canary's answer are wrong."""
    torch = import_module("torch")
    take_device(uuid)
    kernel = import_module("tilus.runtime.launcher").LoadedKernel(*built.load())
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    blocks = LIBRARY[CANARY].blocks(properties.multi_processor_count)
    size = blocks * LIBRARY[CANARY].WORDS
    words = np.random.default_rng(SEED).integers(0, 1 << 32, size, dtype=np.uint32)
    given = torch.from_numpy(words.view(np.int32)).cuda()
    out = torch.zeros_like(given)
    stream = torch.cuda.current_stream().cuda_stream
    torch.cuda.synchronize()
    kernel(stream, (blocks, 1, 1), given.data_ptr(), out.data_ptr(), np.int32(blocks))
    torch.cuda.synchronize()
    got = out.cpu().numpy().view(np.uint32)
    return int(np.count_nonzero(got != LIBRARY[CANARY].expected(words)))
