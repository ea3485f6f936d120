"""What stands above and below a picture: what it is, what is missing, where it comes from."""

from collections import Counter
from collections.abc import Sequence

from services.comparison import ModelRow, Row
from services.plotter.rows import against
from services.records import ModelRecord, Record
from services.reference import Published

OURS = "tilus"
DOT = "  \N{MIDDLE DOT}  "
MADE_UP = "FIXTURE"
OPERATORS = "CUDA events, L2 flushed, medians of 50; every result checked against float64"
MODELS = "CUDA graphs, dummy weights, medians of 10 after 1"


def title(figure: int, shows: str, records: Sequence[Record | ModelRecord], recorded: bool) -> str:
    """What it shows, on which GPUs, and whether the numbers are recorded or made up."""
    names = {record.gpu.name for record in records}
    where = f" on {_listed(names)}" if len(names) == 1 else ""
    parts = [f"Figure {figure}: {shows}", where, " (recorded)" * recorded]
    return "".join([*parts, f" ({MADE_UP}: made up)" * made_up(records)])


def made_up(records: Sequence[Record | ModelRecord]) -> bool:
    """Whether a record is a test's invention."""
    return any(record.gpu.fixture for record in records)


def summary(table: Sequence[Row], shown: Sequence[Row]) -> str:
    """How many cells are there, which are not, and the geometric means against the others."""
    measured = sum(row.speedup is not None for row in table)
    parts = [f"{measured} of {len(table)} cells measured"]
    if len(shown) < len(table):
        parts.append(f"{len(table) - len(shown)} cells are in the CSV alone")
    for name, (mean, count) in against(table, OURS).items():
        parts.append(f"{OURS} {mean:.2f}x {name} (geometric mean of {count})")
    return DOT.join([*parts, *missing(table)])


def model_summary(table: Sequence[ModelRow]) -> str:
    """How many cells are there, and which are not."""
    measured = sum(row.latency_ms is not None for row in table)
    return DOT.join([f"{measured} of {len(table)} cells measured", *missing(table)])


def missing(table: Sequence[Row] | Sequence[ModelRow]) -> list[str]:
    """Whose cells have no record, and how many; nothing where none is missing."""
    absent = Counter(row.cell.executor for row in table if row.record is None)
    if not absent:
        return []
    return ["no record of: " + ", ".join(f"{name} ({count})" for name, count in absent.items())]


def provenance(records: Sequence[Record | ModelRecord], recorded: bool, how: str) -> str:
    """Where the numbers come from: GPU, driver, days, commits, recorded or not."""
    if not records:
        return "no records: nothing was measured"
    commits = {f"{record.commit[:10]}{' (dirty)' * record.dirty}" for record in records}
    days = sorted({record.measured_at.date().isoformat() for record in records})
    kind = "recorded" if recorded else "measured"
    parts = [
        _listed({record.gpu.name for record in records}),
        f"driver {_listed({record.gpu.driver for record in records})}",
        f"{kind} {' to '.join(dict.fromkeys((days[0], days[-1])))}",
        f"commit {_listed(commits)}",
        how,
    ]
    if any(record.gpu.throttled for record in records):
        parts.append("the GPU was throttled in some cells: see the CSV")
    if any(record.gpu.unsteady for record in records):
        parts.append("its clock moved by more than 1% in some cells: see the CSV")
    return DOT.join(parts)


def engines(records: Sequence[ModelRecord]) -> str:
    """What ran the models, and how they are timed."""
    return DOT.join([_listed({record.engine for record in records}), MODELS])


def reference(published: Published | None, gpu: str | None) -> str:
    """Whose numbers stand beside ours; those of one device, or, for None, of all of the file."""
    if published is None:
        return ""
    devices = set(published.latencies) if gpu is None else {published.device(gpu)}
    return f"not ours: {_listed(devices)}, from {published.source}"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
