"""Which cells of a figure a request asks for; what cannot be had is told in a sentence."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import tilus
from services.experiments import (
    BASELINE,
    BENCH_EXECUTORS,
    BENCH_TYPES,
    FIGURES,
    MODEL_FIGURES,
    OPERATOR_BATCHES,
    OPERATOR_SHAPES,
    bench_cells,
    is_integer,
    linear_workloads,
)
from services.figures import BENCH, TABLES, TITLES, TUNE, refusal
from services.messages import Cell, Drawing, ModelCell, RunRequest, Workload
from services.records import record_paths

TUNED = "tilus"  # whose schedules are chosen by measuring

AnyCell = TypeVar("AnyCell", Cell, ModelCell)


class BadRequest(ValueError):
    """A run that cannot be: says what was asked, what there is, what to do."""


def selected(request: RunRequest | Drawing) -> tuple[Cell, ...]:
    """The cells that a request asks for, always with the baseline; BadRequest if there are none."""
    if isinstance(request, RunRequest) and request.figure in TABLES:
        return _tuning(request) if request.figure == TUNE else _bench(request)
    why = refusal(request.figure)
    if why is not None:
        raise BadRequest(why)
    if request.figure not in FIGURES:
        raise BadRequest(f"figure {request.figure} is of whole models, not of operators")
    return _selected(request, FIGURES[request.figure].cells, lambda cell: [cell.workload])


def _bench(request: RunRequest) -> tuple[Cell, ...]:
    """The cells of the benchmark that a request asks for; BadRequest if they cannot be."""
    if request.reference is not None:
        raise BadRequest("the benchmark draws nothing that other numbers could stand beside")
    rivals = BENCH_EXECUTORS if request.executors is None else request.executors
    unknown = set(rivals) - {*BENCH_EXECUTORS, BASELINE}
    if unknown:
        raise BadRequest(
            f"the benchmark has no executor {_listed(unknown)}: "
            f"choose from {_listed({*BENCH_EXECUTORS, BASELINE})}"
        )
    dtypes = BENCH_TYPES if request.dtypes is None else tuple(map(type_name, request.dtypes))
    wide = [name for name in dtypes if tilus.dtype(name).bits > 8]
    if wide:
        raise BadRequest(f"the benchmark is of weights of 1 to 8 bits, not {_listed(wide)}")
    shapes = request.shapes or OPERATOR_SHAPES
    batches = request.batches or OPERATOR_BATCHES
    others = tuple(name for name in BENCH_EXECUTORS if name in rivals)
    cells = bench_cells(dtypes, shapes, batches, others, request.group_size)
    for cell in cells:
        k, group = cell.workload.k, cell.workload.group_size
        if group != -1 and (group < 1 or k % group):
            raise BadRequest(_no_group(group, k))
    return tuple(dict.fromkeys(cells))


def _tuning(request: RunRequest) -> tuple[Cell, ...]:
    """The cells to tune: ours of the benchmark."""
    if request.executors not in (None, (TUNED,)):
        raise BadRequest(f"only kernels of {TUNED} are tuned: leave --executors out")
    cells = _bench(request.model_copy(update={"figure": BENCH, "executors": (TUNED,)}))
    return tuple(
        cell.model_copy(update={"figure": TUNE}) for cell in cells if cell.executor == TUNED
    )


def _no_group(group_size: int, k: int) -> str:
    return (
        f"a group size of {group_size} does not divide k = {k}: "
        "take a divisor of it, or -1 for one group"
    )


def selected_models(request: RunRequest | Drawing) -> tuple[ModelCell, ...]:
    """The cells of a figure of whole models that a request asks for, likewise."""
    return _selected(
        request,
        MODEL_FIGURES[request.figure].cells,
        lambda cell: [workload for _, workload in linear_workloads(cell.workload)],
    )


def check(request: RunRequest) -> None:
    """BadRequest if the request asks for what its figure has not."""
    if request.figure in MODEL_FIGURES:
        selected_models(request)
    else:
        selected(request)


def fitted(request: RunRequest) -> RunRequest:
    """The request without what only other figures have; BadRequest if nothing of it is left.

    For requests of all figures at once: what no figure has is refused.
    """
    everywhere = [_offer(number) for number in TITLES]
    executors, dtypes = _offer(request.figure)
    changed = request.model_copy(
        update={
            "executors": _kept(
                request.executors, executors, set().union(*(names for names, _ in everywhere))
            ),
            "dtypes": _kept(
                None if request.dtypes is None else tuple(map(type_name, request.dtypes)),
                dtypes,
                set().union(*(names for _, names in everywhere)),
            ),
        }
    )
    asked = {
        "executors": request.executors or (),
        "dtypes": tuple(map(type_name, request.dtypes or ())),
    }
    for kind, left in (("executors", changed.executors), ("dtypes", changed.dtypes)):
        if left == ():
            raise BadRequest(f"figure {request.figure} has no cell of {_listed(asked[kind])}")
    check(changed)
    return changed


def no_records(figure: int, recorded: Path) -> str | None:
    """Why a figure cannot be drawn without measuring it, and how to measure it; None if it can."""
    if record_paths(recorded, figure):
        return None
    if figure in MODEL_FIGURES:
        return (
            f"figure {figure} has no records in {recorded}, and nothing here can measure it: it "
            "times whole models, for which there is no runner yet; records of one that was run "
            f"elsewhere go to {recorded}/<gpu>/figure{figure}.jsonl"
        )
    return (
        f"figure {figure} has no records in {recorded}, and there is no GPU here to measure it: "
        f"run bash run.sh --figure {figure} on a machine with one, and copy "
        f"results/<gpu>/figure{figure}.jsonl from there to {recorded}/<gpu>/"
    )


def type_name(short: str) -> str:
    """The full name of a weight type; BadRequest if there is none."""
    try:
        name: str = tilus.dtype(short).name
    except tilus.TilusError as error:
        raise BadRequest(str(error)) from None
    return name


def _offer(figure: int) -> tuple[set[str], set[str]]:
    """The executors and the weight types of a figure."""
    cells = (FIGURES.get(figure) or MODEL_FIGURES[figure]).cells
    return {cell.executor for cell in cells}, {cell.workload.b_dtype for cell in cells}


def _kept(
    asked: tuple[str, ...] | None, here: set[str], anywhere: set[str]
) -> tuple[str, ...] | None:
    if asked is None:
        return None
    if not set(asked) <= anywhere:
        raise BadRequest(
            f"no figure has {_listed(set(asked) - anywhere)}: choose from {_listed(anywhere)}"
        )
    return tuple(name for name in asked if name in here)


def _selected(
    request: RunRequest | Drawing,
    cells: Sequence[AnyCell],
    products: Callable[[AnyCell], list[Workload]],
) -> tuple[AnyCell, ...]:
    """The cells of `cells` that are asked for; `products` are the operators that a cell runs."""
    figure = request.figure
    known, kinds = _offer(figure)
    executors = known if request.executors is None else set(request.executors)
    if not executors <= known:
        raise BadRequest(
            f"figure {figure} has no executor {_listed(executors - known)}: "
            f"choose from {_listed(known)}"
        )
    dtypes = kinds if request.dtypes is None else set(map(type_name, request.dtypes))
    if not dtypes <= kinds:
        raise BadRequest(
            f"figure {figure} has no {_listed(dtypes - kinds)}: choose from {_listed(kinds)}"
        )
    found = tuple(
        _regrouped(cell, request.group_size, products)
        for cell in cells
        if cell.executor == BASELINE
        or (cell.executor in executors and cell.workload.b_dtype in dtypes)
    )
    rivals, quantised = executors - {BASELINE}, dtypes - {"float16"}
    if rivals and quantised and all(cell.executor == BASELINE for cell in found):
        raise BadRequest(
            f"figure {figure} has no cell of {_listed(rivals)} with {_listed(quantised)}"
        )
    return found


def _regrouped(
    cell: AnyCell, group_size: int | None, products: Callable[[AnyCell], list[Workload]]
) -> AnyCell:
    workload = cell.workload
    if group_size is None or not is_integer(workload.b_dtype):
        return cell
    for k in (product.k for product in products(cell)):
        if group_size != -1 and (group_size < 1 or k % group_size):
            raise BadRequest(_no_group(group_size, k))
    changed = workload.model_copy(update={"group_size": group_size})
    return cell.model_copy(update={"workload": changed})


def _listed(names: Iterable[object]) -> str:
    return ", ".join(str(name) for name in sorted(names, key=str))
