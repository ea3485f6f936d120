"""Which GPUs this machine has, asked of nvidia-smi in a child with a time limit."""

import csv
import subprocess
from dataclasses import dataclass

FIELDS = ("index", "name", "uuid", "driver_version", "compute_cap")
STATE_FIELDS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
THROTTLE_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# NVML's clock event reasons that slow down: power cap, thermal, hardware, power brake
THROTTLING = 0x04 | 0x08 | 0x20 | 0x40 | 0x80
SECONDS = 10.0


class GpuError(Exception):
    """The device cannot be asked or is not there."""


@dataclass(frozen=True)
class Device:
    """One GPU: its place, name and uuid, the driver's version, the architecture as in `sm_90`."""

    index: int
    name: str
    uuid: str
    driver: str
    arch: str


@dataclass(frozen=True)
class State:
    """What a GPU was doing at one moment: clocks in MHz, degrees Celsius, watts."""

    sm_mhz: int
    mem_mhz: int
    temperature_c: int
    power_w: float
    throttled: bool | None = None


def devices() -> list[Device]:
    """Every GPU that the driver shows, none where there is no driver."""
    try:
        rows = _query(FIELDS)
    except GpuError:
        return []
    return [
        Device(int(index), name, uuid, driver, f"sm_{capability.replace('.', '')}")
        for index, name, uuid, driver, capability in rows
    ]


def state(uuid: str) -> State:
    """The device's clocks, temperature and power now; GpuError if nvidia-smi does not say."""
    (row,) = _query(STATE_FIELDS, uuid)
    sm, memory, temperature, power = row
    try:
        return State(int(sm), int(memory), int(temperature), float(power), _throttled(uuid))
    except ValueError as error:
        raise GpuError(f"nvidia-smi answers {', '.join(row)} for {uuid}") from error


def _throttled(uuid: str) -> bool | None:
    for field in THROTTLE_FIELDS:
        try:
            ((mask,),) = _query((field,), uuid)
            return throttled(int(mask, 16))
        except (GpuError, ValueError):
            continue
    return None


def throttled(reasons: int) -> bool:
    """Whether NVML's clock event reasons hold one that slows the device down."""
    return bool(reasons & THROTTLING)


def _query(fields: tuple[str, ...], uuid: str | None = None) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    if uuid is not None:
        command.append(f"--id={uuid}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuError(f"nvidia-smi: {error}") from error
    if done.returncode != 0:
        raise GpuError(f"nvidia-smi: {(done.stdout + done.stderr).strip()}")
    return [[part.strip() for part in row] for row in csv.reader(done.stdout.splitlines()) if row]
