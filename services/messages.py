"""What crosses a wire: values that compare by content."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

Parameter = int | bool | str
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Arch = Annotated[str, Field(pattern=r"^sm_\d{2,3}a?$")]
Mode = Literal["measured", "recorded"]
Extent = Annotated[int, Field(ge=1, le=1 << 20)]
TRIED = 64  # schedules that the tuner tries for a cell

FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$"
FileName = Annotated[str, Field(pattern=FILE_NAME)]


def digest(content: bytes) -> str:
    """SHA-256 of the bytes, 64 lower-case hex digits."""
    return hashlib.sha256(content).hexdigest()


class Data(BaseModel):
    """Immutable data that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def canonical(self) -> str:
        """JSON with sorted names and no spaces: equal messages are equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


class Message(Data):
    """Data that is named by its content."""

    def key(self) -> str:
        """SHA-256 of the canonical text, 64 hex digits."""
        return digest(self.canonical().encode())


class Workload(Message):
    """One matrix product: a [m, k] in a_dtype times a quantised weight [k, n] in b_dtype."""

    a_dtype: str = "float16"
    b_dtype: str
    group_size: int
    zeros: bool
    m: int
    n: int
    k: int


class ModelWorkload(Message):
    """One step of a language model whose linear layers have weights in b_dtype.

    `tokens` are those of all requests of the batch together: their context in decode, their
    prompts in prefill. Embeddings and the last layer stay float16.
    """

    model: str
    stage: Literal["decode", "prefill"]
    batch: int
    tokens: int
    a_dtype: str = "float16"
    b_dtype: str
    group_size: int
    zeros: bool


class Cell(Message):
    """One bar of a figure: a workload on an executor."""

    figure: int
    executor: str
    workload: Workload


class ModelCell(Message):
    """One bar of a figure of whole models."""

    figure: int
    executor: str
    workload: ModelWorkload


class Reference(Data):
    """Numbers from elsewhere to draw beside ours: a table as text, and the name of its file."""

    source: str = Field(max_length=200)
    text: str = Field(max_length=1 << 18)


class KernelSpec(Message):
    """What a compile worker builds: a library kernel by name, its parameters, a target."""

    executor: str = Field(max_length=64)
    kernel: str = Field(max_length=64)
    parameters: dict[str, Parameter] = Field(max_length=64)
    arch: Arch


class Manifest(Data):
    """What the store knows of one key: the spec, the files with their digests, the facts.

    `seconds` on the clock, `cpu_seconds` of the processor, and `peak_mib`: the most memory that the
    process had by the end, or one that it had started.
    """

    version: int = 1
    key: Key
    spec: KernelSpec
    files: dict[FileName, Key] = {}
    facts: dict[str, Parameter | float] = {}
    versions: dict[str, str] = {}
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: int = 0
    built_by: str = ""
    built_at: str = ""


class RunRequest(Message):
    """A figure to make; None stands for everything that the figure has.

    The same request is the same run, except that a `fresh` one repeats its measurements. Figure 0
    is the benchmark and figure -1 the tuner: they alone take `shapes`, pairs of k and n, and
    `batches`, values of m, and the tuner alone a `limit`, of schedules to try for each cell.
    """

    figure: int
    mode: Mode
    arch: Arch = "sm_90"
    gpu: str = Field(default="", pattern=r"^[a-z0-9-]*$", max_length=64)
    uuid: str = Field(default="", pattern=r"^[A-Za-z0-9-]*$", max_length=64)
    executors: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    group_size: int | None = None
    fresh: str = Field(default="", pattern=r"^[A-Za-z0-9-]*$", max_length=64)
    reference: Reference | None = None
    shapes: tuple[tuple[Extent, Extent], ...] | None = Field(default=None, max_length=64)
    batches: tuple[Extent, ...] | None = Field(default=None, max_length=64)
    limit: int = Field(default=TRIED, ge=1, le=512)


class Measurement(Message):
    """What a runner measures: one cell, with the kernels to choose from and their keys.

    `fresh` differs for every run that wants new numbers, and is empty otherwise.
    """

    cell: Cell
    specs: tuple[KernelSpec, ...] = ()
    keys: tuple[str, ...] = ()
    gpu: str
    uuid: str
    fresh: str = ""


class Drawing(Message):
    """What a plotter draws: a figure from the records of one GPU, by its folder name.

    No name stands for every GPU that has records.
    """

    figure: int
    gpu: str
    mode: Mode
    executors: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    group_size: int | None = None
    reference: Reference | None = None


TaskKind = Literal["compile", "check", "measure", "draw"]
TaskState = Literal["stored", "waiting", "running", "done", "failed", "cancelled"]
# Who is to blame for a failure: the kernel, a time limit, whoever killed its processes, or the
# house (a disk, a kernel that is not there), or a GPU that does not pass its own test.
Cause = Literal["kernel", "timeout", "killed", "house", "gpu"]


class Task(Data):
    """One piece of a run: `id` is the queue's job, `key` names the result that it leaves.

    `message` is the job's argument, `after` the jobs that it waits for; `stored` says that the
    result was there before the run began.
    """

    kind: TaskKind
    id: str
    key: str
    title: str
    message: dict[str, JsonValue]
    after: tuple[str, ...] = ()
    stored: bool = False


class Plan(Data):
    """A run written down: its tasks in order, and by executor the cells nothing is known of.

    `changed` counts the recorded kernels that this code no longer makes as they were measured.
    """

    id: str
    request: RunRequest
    created_at: AwareDatetime
    tasks: tuple[Task, ...]
    missing: dict[str, int] = {}
    changed: int = 0


class Failure(Data):
    """A task that failed, and the sentence that says why."""

    kind: TaskKind
    title: str
    reason: str
    cause: Cause | None = None


class RunState(Data):
    """Where a run stands: counts by kind and state, the failures, what the checks found."""

    id: str
    request: RunRequest
    created_at: AwareDatetime | None = None
    finished: bool
    counts: dict[TaskKind, dict[TaskState, int]]
    failures: tuple[Failure, ...] = ()
    missing: dict[str, int] = {}
    changed: int = 0
    largest_error: float | None = None
    check_seconds: float = 0.0
    figures: tuple[str, ...] = ()


class JobRequest(Message):
    """One piece of work for a compile worker."""

    kind: Literal["compile", "check"]
    spec: KernelSpec


class JobState(Data):
    """Where one piece of work stands: how many wait in front of it, why and for whom it failed."""

    id: str
    function: str
    status: TaskState
    position: int | None = None
    cause: Cause | None = None
    reason: str | None = None


class WorkerState(Data):
    """A worker that is alive, and the title of the batch that it is at, if it is at one."""

    name: str
    batch: str | None = None


class QueueState(Data):
    """A queue: how many pieces of work wait in it, and who works on it."""

    name: str
    waiting: int
    workers: tuple[WorkerState, ...]


class FleetState(Data):
    """What stands in the queues; `problem` says why nothing is known of them."""

    queues: tuple[QueueState, ...] = ()
    problem: str | None = None


class KernelState(Data):
    """Where one kernel stands: its manifest once it is in the store."""

    key: str
    status: Literal["stored", "waiting", "running", "failed"]
    reason: str | None = None
    manifest: Manifest | None = None


class Artifact(Data):
    """A stored kernel as a list shows it: the sizes of its files, what its CPU check found."""

    manifest: Manifest
    title: str
    sizes: dict[FileName, int]
    relative_error: float | None = None


class Artifacts(Data):
    """Stored kernels in the order of their keys; `after` is where the list goes on, if it does."""

    kernels: tuple[Artifact, ...]
    after: Key | None = None


class Problem(Data):
    """An error as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
