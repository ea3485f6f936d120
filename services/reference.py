"""Numbers from elsewhere, to draw and print beside ours: a CSV file that the user has.

Two tables are known by their columns: products (`m`, `k`, `n`) and steps of models (`stage`,
`model`, `bs`, `tokens`), both with the latency in ms. Executors, types and models may have the
names that such files use.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.experiments import BASELINE, MODEL_FIGURES
from services.messages import Cell, ModelCell, Reference, RunRequest
from services.models import MODELS
from services.records import gpu_folder
from services.selection import BadRequest, selected, selected_models, type_name

EXECUTORS = {"mutis": "tilus", "bitblas": "ladder", "vllm": BASELINE}
SHARED = ("device", "a_dtype", "b_dtype", "group_size", "latency")
PRODUCTS = ("runner", "m", "k", "n")
STEPS = ("backend", "stage", "model", "bs", "tokens")

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Published:
    """What a file says: by device, as the file names it, the latency in ms of each problem."""

    source: str
    latencies: Mapping[str, Mapping[Key, float]]

    def device(self, gpu: str) -> str:
        """The device whose numbers stand beside those of `gpu`: the same, else the file's first."""
        same = (name for name in self.latencies if gpu_folder(name) == gpu_folder(gpu))
        return next(same, next(iter(self.latencies)))

    def of(self, device: str, cell: Cell) -> float | None:
        """The latency of a product in ms; None where the file has none."""
        return self.latencies[device].get(_product(cell))

    def of_model(self, device: str, cell: ModelCell) -> float | None:
        """The latency of a step of a model in ms; None where the file has none."""
        return self.latencies[device].get(_step(cell))


def from_file(path: Path) -> Reference:
    """The message that carries a file; BadRequest if there is none, or it is no small text."""
    try:
        return Reference(source=path.name, text=path.read_text())
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}: name a CSV file") from None
    except ValueError:
        raise BadRequest(f"{path} is no table: name a CSV file of at most 256 KiB") from None


def check_reference(request: RunRequest) -> None:
    """BadRequest if the request's reference cannot be read, or has nothing of its figure."""
    if request.reference is None:
        return
    published = read(request.reference)
    if request.figure in MODEL_FIGURES:
        steps = selected_models(request)
        found = any(published.of_model(d, cell) for d in published.latencies for cell in steps)
    else:
        products = selected(request)
        found = any(published.of(d, cell) for d in published.latencies for cell in products)
    if not found:
        raise BadRequest(
            f"{published.source} has no number for a cell of figure {request.figure}: "
            "is it the file of another figure?"
        )


def read(reference: Reference) -> Published:
    """The numbers of a file; BadRequest names the line that is not as it should be."""
    lines = csv.DictReader(io.StringIO(reference.text))
    columns = set(lines.fieldnames or ())
    kinds = {PRODUCTS: _product_of, STEPS: _step_of}
    key_of = next((key for own, key in kinds.items() if {*SHARED, *own} <= columns), None)
    if key_of is None:
        raise BadRequest(
            f"{reference.source}: its first line names the columns {_words(columns)}: "
            f"there must be {_words(SHARED)}, and {_words(PRODUCTS)} or {_words(STEPS)}"
        )
    latencies: dict[str, dict[Key, float]] = {}
    for line in lines:
        try:
            latency = float(line["latency"])
            key = key_of(line)
        except (TypeError, ValueError) as error:
            where = f"{reference.source}:{lines.line_num}"
            raise BadRequest(f"{where}: {error}: see its first line for what goes where") from None
        device = latencies.setdefault(line["device"], {})
        if math.isfinite(latency) and latency > 0:  # what failed there is NaN
            device[key] = latency
    if not latencies:
        raise BadRequest(f"{reference.source} has no line but the first")
    return Published(reference.source, latencies)


def _product(cell: Cell) -> Key:
    work = cell.workload
    return (cell.executor, work.a_dtype, work.b_dtype, work.group_size, work.m, work.k, work.n)


def _product_of(line: Mapping[str, str]) -> Key:
    return (*_weights_of(line, "runner"), int(line["m"]), int(line["k"]), int(line["n"]))


def _step(cell: ModelCell) -> Key:
    work = cell.workload
    weights = (cell.executor, work.a_dtype, work.b_dtype, work.group_size)
    return (*weights, work.model, work.stage, work.batch, work.tokens)


def _step_of(line: Mapping[str, str]) -> Key:
    published = {name: model.name for model in MODELS.values() for name in model.published}
    model = published.get(line["model"], line["model"])
    return (
        *_weights_of(line, "backend"),
        model,
        line["stage"],
        int(line["bs"]),
        int(line["tokens"]),
    )


def _weights_of(line: Mapping[str, str], executor: str) -> Key:
    """Who, and the types; such files write 4-bit integers as uint4b."""
    name = EXECUTORS.get(line[executor], line[executor])
    a_dtype, b_dtype = (
        type_name(re.sub(r"^(u?int\d)b$", r"\1", line[column])) for column in ("a_dtype", "b_dtype")
    )
    return (name, a_dtype, b_dtype, int(line["group_size"]))


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
