"""Xid errors: what the driver reports of a GPU while work is on it.

NVML may hang where a GPU does. So whoever listens to it is a child beside the work, which is killed
when the work is over, and whatever becomes of it is no fault of the work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

from services.executors.base import installed
from services.runner import child

WAIT_MS = 1000


class Xid(NamedTuple):
    """What a number means, and whether the device is then unfit to measure on."""

    words: str
    fatal: bool


# NVIDIA, "Xid Errors": those of programs are their own, the others are the device's.
XIDS = {
    13: Xid("an exception in a program", False),
    31: Xid("a program touched memory that is not its own", False),
    43: Xid("a program was stopped", False),
    45: Xid("a program was ended early", False),
    48: Xid("two wrong bits in memory", True),
    63: Xid("a row of memory is replaced", True),
    64: Xid("a row of memory could not be replaced", True),
    74: Xid("an error on NVLink", True),
    79: Xid("the GPU has fallen off the bus", True),
    94: Xid("a contained error in memory", True),
    95: Xid("an uncontained error in memory", True),
    119: Xid("the GPU's own processor does not answer", True),
    120: Xid("an error of the GPU's own processor", True),
}


def words(numbers: Sequence[int]) -> str:
    """What happened, for people."""
    known = [(number, XIDS.get(number)) for number in dict.fromkeys(numbers)]
    return ", ".join(f"Xid {number}" + (f": {xid.words}" if xid else "") for number, xid in known)


def is_fatal(number: int) -> bool:
    """Whether a device that reports this is unfit; what nobody knows is the program's."""
    return number in XIDS and XIDS[number].fatal


def reported(uuid: str) -> Iterator[int]:
    """Every Xid of a device, as it comes, for ever; none where NVML's package is not installed."""
    if installed("nvidia-ml-py") is None:
        return
    nvml = import_module("pynvml")
    nvml.nvmlInit()
    events = nvml.nvmlEventSetCreate()
    device = nvml.nvmlDeviceGetHandleByUUID(uuid)
    nvml.nvmlDeviceRegisterEvents(device, nvml.nvmlEventTypeXidCriticalError, events)
    while True:
        try:
            yield int(nvml.nvmlEventSetWait_v2(events, WAIT_MS).eventData)
        except nvml.NVMLError_Timeout:
            continue


@contextmanager
def watched(
    uuid: str, source: Callable[[str], Iterator[int]] = reported
) -> Iterator[Callable[[], list[int]]]:
    """What the driver reports of a device while the block runs, each time it is asked for."""

    def listen(send: child.Send) -> None:
        for number in source(uuid):
            send({"xid": number})

    with child.beside(listen) as said:

        def found() -> list[int]:
            return [int(str(event["xid"])) for event in said() if "xid" in event]

        yield found
