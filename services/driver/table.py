"""The benchmark's table: each cell beside its floor and its rivals, then who is ahead of whom."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby

from services.executors.base import Executor
from services.experiments import BASELINE, baseline
from services.messages import Cell
from services.records import Record

OURS = "tilus"
NONE = "-"
US = 1e3  # from ms
GB = 1e6  # from bytes a ms
SHORT = 10  # digits of a commit
REASON = 100  # letters of a reason, at most


@dataclass(frozen=True)
class Row:
    """A cell: times in us; the ratios are another's time divided by this one's, by executor."""

    executor: str
    b_dtype: str
    group_size: int
    zeros: bool
    m: int
    k: int
    n: int
    reason: str | None = None
    latency_us: float | None = None
    p10_us: float | None = None
    p90_us: float | None = None
    graph_us: float | None = None
    floor_us: float | None = None
    floor_ratio: float | None = None
    empty_us: float | None = None
    empty_graph_us: float | None = None
    gb_per_s: float | None = None
    relative_error: float | None = None
    measured_at: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    graph_ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """What is multiplied, in words."""
        return f"{self.b_dtype} m={self.m} k={self.k} n={self.n}"


@dataclass(frozen=True)
class Mean:
    """A rival against us: the geometric means of its time by ours, over so many cells."""

    rival: str
    cells: int
    ratio: float
    least: float
    graph_ratio: float | None
    ahead: tuple[str, ...] = ()


def rows(
    cells: Sequence[Cell],
    records: Mapping[Cell, Record],
    executors: Mapping[str, Executor],
) -> list[Row]:
    """A row for each cell, with a reason where it has no time."""
    good = {cell: records[cell] for cell in cells if _timed(records.get(cell))}
    return [_row(cell, records.get(cell), cells, good, executors) for cell in cells]


def means(table: Iterable[Row]) -> list[Mean]:
    """Every rival that has a time where we have one, with the cells in which it is faster."""
    ours = [row for row in table if row.executor == OURS]
    rivals = dict.fromkeys(rival for row in ours for rival in row.ratios)
    return [_mean(rival, [row for row in ours if rival in row.ratios]) for rival in rivals]


def provenance(cells: Iterable[Cell], records: Mapping[Cell, Record]) -> list[str]:
    """Where and when the cells were measured, by which commits, and how many were throttled."""
    found = [records[cell] for cell in cells if cell in records]
    places = Counter(
        f"{one.gpu.name}, driver {one.gpu.driver}, commit {one.commit[:SHORT]}{'+' * one.dirty}, "
        f"{one.measured_at:%Y-%m-%d}"
        for one in found
    )
    throttled = sum(bool(one.gpu.throttled) for one in found)
    lines = [f"{count} cells measured on {place}" for place, count in places.items()]
    return [*lines, *([f"{throttled} cells were measured on a throttled GPU"] if throttled else [])]


def as_data(table: Sequence[Row]) -> dict[str, object]:
    """The table and its means, for JSON."""
    return {
        "rows": [asdict(row) for row in table],
        "means": [asdict(mean) for mean in means(table)],
    }


def as_text(table: Sequence[Row]) -> str:
    """The table for people: a block for each shape and m, the means, who is faster than we are."""
    rivals = list(dict.fromkeys(rival for row in table for rival in row.ratios))
    blocks = [
        _block(list(block), rivals)
        for _, block in groupby(table, key=lambda row: (row.k, row.n, row.m))
    ]
    return "\n\n".join([*blocks, "\n".join(_summary(means(table)))]) + "\n"


def _timed(record: Record | None) -> bool:
    return record is not None and record.status == "ok"


def _row(
    cell: Cell,
    record: Record | None,
    cells: Sequence[Cell],
    good: Mapping[Cell, Record],
    executors: Mapping[str, Executor],
) -> Row:
    work = cell.workload
    row = Row(cell.executor, work.b_dtype, work.group_size, work.zeros, work.m, work.k, work.n)
    if record is None or cell not in good:
        return replace(row, reason=_reason(cell, record, executors))
    peers = [baseline(cell), *(each for each in cells if each.workload == work)]
    others = {peer.executor: good[peer] for peer in peers if peer in good and peer != cell}
    return replace(
        row,
        latency_us=_us(record.latency_ms),
        p10_us=_us(record.p10_ms),
        p90_us=_us(record.p90_ms),
        graph_us=_us(record.graph_latency_ms),
        floor_us=_us(record.floor_ms),
        floor_ratio=record.floor_ratio,
        empty_us=_us(record.empty_ms),
        empty_graph_us=_us(record.empty_graph_ms),
        gb_per_s=record.bytes / (record.latency_ms or math.nan) / GB,
        relative_error=record.relative_error,
        measured_at=record.measured_at.isoformat(timespec="seconds"),
        versions=record.versions,
        ratios=_ratios(record, others, lambda one: one.latency_ms),
        graph_ratios=_ratios(record, others, lambda one: one.graph_latency_ms),
    )


def _ratios(
    record: Record, others: Mapping[str, Record], time: Callable[[Record], float | None]
) -> dict[str, float]:
    own = time(record)
    times = {name: time(other) for name, other in others.items()}
    return {name: found / own for name, found in times.items() if found and own}


def _reason(cell: Cell, record: Record | None, executors: Mapping[str, Executor]) -> str:
    if record is not None:
        return f"{record.status}: {record.reason}"
    executor = executors.get(cell.executor)
    if executor is None:
        return "there is no such executor here"
    return executor.refusal(cell.workload) or executor.absence() or "it was not measured"


def _us(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds * US


def _mean(rival: str, ours: Sequence[Row]) -> Mean:
    ratios = [row.ratios[rival] for row in ours]
    in_graphs = [row.graph_ratios[rival] for row in ours if rival in row.graph_ratios]
    ahead = [
        f"{row.problem}: {rival} {ratio * (row.latency_us or 0):.1f} us, "
        f"{OURS} {row.latency_us:.1f} us ({ratio:.2f})"
        for row, ratio in zip(ours, ratios, strict=True)
        if ratio < 1
    ]
    return Mean(
        rival=rival,
        cells=len(ratios),
        ratio=_geometric(ratios),
        least=min(ratios),
        graph_ratio=_geometric(in_graphs) if in_graphs else None,
        ahead=tuple(ahead),
    )


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _block(block: Sequence[Row], rivals: Sequence[str]) -> str:
    first = block[0]
    empty = next((row for row in block if row.empty_us is not None), None)
    head = f"k {first.k}  n {first.n}  m {first.m}"
    if empty is not None:
        in_graphs = _number(empty.empty_graph_us, 1)
        head += f"  (an empty kernel: {empty.empty_us:.1f} us, in graphs {in_graphs})"
    names = ["weight", "by", "us", "p10..p90", "graph us", "floor us", "x floor", "GB/s"]
    names += [f"{'cuBLAS' if rival == BASELINE else rival}/it" for rival in rivals]
    lines = [_line(row, rivals) for row in block]
    widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
    text = [_aligned(names, widths)]
    for row, line in zip(block, lines, strict=True):
        reason = "" if row.reason is None else f"  n/a: {row.reason[:REASON]}"
        text.append(_aligned(line[:2] if reason else line, widths) + reason)
    return "\n".join([head, *text])


def _aligned(parts: Sequence[str], widths: Sequence[int]) -> str:
    """The first two parts stand on the left."""
    placed = zip(parts, widths, strict=False)
    aligned = [p.ljust(w) if i < 2 else p.rjust(w) for i, (p, w) in enumerate(placed)]
    return "  ".join(aligned)


def _line(row: Row, rivals: Sequence[str]) -> list[str]:
    kind = row.b_dtype + (f"/{row.group_size}" if row.group_size != -1 else "")
    kind += "z" if row.zeros else ""
    spread = NONE
    if row.p10_us is not None and row.p90_us is not None:
        spread = f"{row.p10_us:.1f}..{row.p90_us:.1f}"
    return [
        kind,
        row.executor,
        _number(row.latency_us, 1),
        spread,
        _number(row.graph_us, 1),
        _number(row.floor_us, 1),
        _number(row.floor_ratio, 2),
        _number(row.gb_per_s, 0),
        *(_number(row.ratios.get(rival), 2) for rival in rivals),
    ]


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _summary(found: Sequence[Mean]) -> list[str]:
    if not found:
        return [f"no cell has a time of {OURS} and of a rival"]
    lines = [f"geometric means of a rival's time by that of {OURS}:"]
    lines += [
        f"  {mean.rival:<13} {mean.ratio:.3f} over {mean.cells} cells, least {mean.least:.3f}; "
        f"in graphs {_number(mean.graph_ratio, 3)}"
        for mean in found
    ]
    ahead = [line for mean in found for line in mean.ahead]
    lines.append(f"cells in which a rival is faster: {len(ahead) or 'none'}")
    return [*lines, *(f"  {line}" for line in ahead)]
