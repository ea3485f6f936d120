"""Made-up records, and saying so: no device gave these numbers."""

from datetime import UTC, datetime

import tilus
from services.experiments import BASELINE
from services.models import MODELS
from services.records import Gpu, ModelRecord, gpu_folder
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


def batches(cells, lacking=("ladder",), wrong=(("triton", 64),)):
    """Figure 13: weights bound small batches, products large ones; who lacks has no records."""
    share = {"float16": 16, "float6_e3m2": 6, "uint4": 4}
    slack = {BASELINE: 1.0, "tilus": 1.05, "triton": 1.9, "ladder": 1.6, "quant-llm": 1.4}
    found = []
    for cell in cells:
        work = cell.workload
        if cell.executor in lacking:
            continue
        bound = 0.02 * share[work.b_dtype] + 0.0008 * work.m / (1 + 0.00002 * work.m)
        one = timed(cell, bound * slack[cell.executor], bound)
        found.append(bad(one, "wrong") if (cell.executor, work.m) in wrong else one)
    return {one.cell: one for one in found}


MEMORY_GB = {"gemma-2-9b": 18.5, "Qwen2.5-32B": 65.5, "Llama-3-70B": 141.0}


def model_records(cells, gpu="Fixture GPU", capacity_gb=80.0, lacking=("ladder",)):
    """Figures 11 and 12: a decoded step reads all weights, prefill multiplies them."""
    found = {}
    for cell in cells:
        work = cell.workload
        if cell.executor in lacking:
            continue
        memory = MEMORY_GB[work.model] * tilus.dtype(work.b_dtype).bits / 16
        latency = memory / 2.0 + (memory * 6 if work.stage == "prefill" else 2.0)
        fits = memory < capacity_gb
        one = ModelRecord(
            **work.model_dump(),
            figure=cell.figure,
            executor=cell.executor,
            engine="made-up 1.0",
            status="ok" if fits else "oom",
            reason=None if fits else f"{memory:.0f} GB do not fit",
            latency_ms=latency if fits else None,
            memory_gb=memory,
            gpu=GPU.model_copy(update={"name": gpu}),
            commit="f" * 40,
            dirty=False,
            measured_at=datetime(2026, 1, 2, tzinfo=UTC),
        )
        found[gpu_folder(gpu), cell] = one
    return found


def operators(cells, lacking=("ladder", "marlin")):
    """Figure 9: who is not ours is slower, one cell is wrong."""
    found = [
        timed(cell, 0.3 / (1 + index % 7))
        for index, cell in enumerate(cells)
        if cell.executor not in lacking
    ]
    found[1] = bad(found[1], "wrong")
    return {one.cell: one for one in found}


def table_of(cells, device, latency=lambda number: 0.2 * (1 + number % 7)):
    """A table as others publish them: their names, a line a cell, the last one failed."""
    names = {"tilus": "mutis", "ladder": "bitblas"}
    lines = []
    for number, cell in enumerate(cells):
        work = cell.workload
        kind = work.b_dtype + "b" * (work.b_dtype in ("uint4", "uint2", "uint1", "int4"))
        time = "NaN" if number == len(cells) - 1 else latency(number)
        who = names.get(cell.executor, cell.executor)
        if hasattr(work, "model"):
            model = MODELS[work.model].published[0]
            lines.append(
                f"{device},{work.stage},cgraph,{model},{who},float16,{kind},{work.batch},"
                f"{work.tokens},{work.group_size},{time}"
            )
        else:
            lines.append(
                f"{device},{who},float16,{kind},{work.group_size},{work.m},{work.k},{work.n},{time}"
            )
    steps = "device,stage,mode,model,backend,a_dtype,b_dtype,bs,tokens,group_size,latency"
    products = "device,runner,a_dtype,b_dtype,group_size,m,k,n,latency"
    head = steps if hasattr(cells[0].workload, "model") else products
    return "\n".join([head, *lines]) + "\n"
