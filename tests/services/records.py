"""Records as a runner would write them, for tests."""

from datetime import UTC, datetime

from services.records import Candidate, Gpu, Kernel, Record


def record(cell, *, uuid="GPU-1", schedule=None, candidates=(), status="ok"):
    """A record of `cell`; `candidates` are the keys of the kernels that were tried."""
    shape, good = cell.workload, status == "ok"
    return Record(
        **shape.model_dump(),
        figure=cell.figure,
        executor=cell.executor,
        status=status,
        reason=None if good else "it took too long",
        latency_ms=0.1 if good else None,
        relative_error=3e-4 if good else None,
        bytes=1,
        gpu=Gpu(name="NVIDIA H200", uuid=uuid, driver="580", arch="sm_90"),
        kernel=Kernel(
            key="0" * 64,
            cubin_sha256="0" * 64,
            name="fake",
            arch="sm_90",
            parameters={"b_dtype": shape.b_dtype},
            schedule=schedule or {},
        ),
        candidates=tuple(Candidate(key=key, status="ok") for key in candidates),
        commit="abc",
        dirty=False,
        measured_at=datetime.now(UTC),
    )
