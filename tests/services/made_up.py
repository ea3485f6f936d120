"""Made-up records, and saying so: no device gave these numbers."""

from datetime import UTC, datetime

import tilus
from services.experiments import BASELINE
from services.records import Gpu
from tests.services.records import record

GPU = Gpu(name="Fixture GPU", uuid="GPU-0", driver="1.2.3", arch="sm_90")


def timed(cell, latency_ms, floor_ms=0.08):
    """A good record of `cell` with that time."""
    return record(cell).model_copy(
        update={
            "gpu": GPU,
            "latency_ms": latency_ms,
            "floor_ms": floor_ms,
            "floor_ratio": latency_ms / floor_ms,
            "measured_at": datetime(2026, 1, 2, tzinfo=UTC),
            "commit": "f" * 40,
        }
    )


def bad(one, status, reason="it is off"):
    """The record of the same cell with another end."""
    return one.model_copy(
        update={
            "status": status,
            "reason": reason,
            "latency_ms": None,
            "floor_ratio": None,
        }
    )


def spectrum(cells, lacking=("uint3",), wrong=("int5",), failed=("int2",)):
    """Figure 10: each width takes its share of the baseline's time, and a little more."""
    found = []
    for cell in cells:
        b_dtype = cell.workload.b_dtype
        if b_dtype in lacking:
            continue
        if cell.executor == BASELINE:
            found.append(timed(cell, 0.2416, 0.2107))
            continue
        bits = tilus.dtype(b_dtype).bits
        floor = 0.0032 + 0.0131 * bits
        one = timed(cell, floor * (1.04 + 0.02 * (len(b_dtype) % 5)) + 0.006, floor)
        for status, types in (("wrong", wrong), ("failed", failed)):
            one = bad(one, status) if b_dtype in types else one
        found.append(one)
    return {one.cell: one for one in found}
