"""/v1/figures: what each figure says of each of its cells, with the record behind it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, HTTPException, Query
from fastapi import Path as InPath

import tilus
from services.comparison import ModelRow, Row, model_rows, rows
from services.experiments import FIGURES, MODEL_FIGURES, Picture
from services.figures import TITLES, refusal
from services.messages import Cell, Data, Mode, ModelCell
from services.records import (
    ModelRecord,
    Record,
    ledger,
    load_models,
    newest_models,
    record_path,
    record_paths,
)
from services.settings import Settings

MODES: tuple[Mode, ...] = get_args(Mode)  # what was measured here comes first

Number = Annotated[int, InPath(ge=1, le=99)]
GpuFolder = Annotated[str, Query(pattern=r"^[a-z0-9-]*$", max_length=64)]


class Source(Data):
    """Records that a figure can be drawn from: made here or shipped, and of which GPU's folder.

    No GPU stands for every one that has records.
    """

    mode: Mode
    gpu: str


class FigureEntry(Data):
    """A figure there is, and what it can be drawn from: what was measured here comes first."""

    number: int
    title: str
    picture: Picture | Literal["models"]
    sources: tuple[Source, ...]


class Bar(Data):
    """One cell of a figure: its weight type's short name, its speed over the baseline's."""

    cell: Cell | ModelCell
    weight: str
    status: str
    speedup: float | None = None
    record: Record | ModelRecord | None = None


def router(settings: Settings) -> APIRouter:
    """The routes under /v1/figures."""
    routes = APIRouter(prefix="/v1/figures", tags=["figures"])

    @routes.get("")
    def every() -> list[FigureEntry]:
        """Every figure, and the records that there are of it."""
        return [entry(number, settings) for number in sorted(TITLES)]

    @routes.get("/{number}")
    def one(number: Number, mode: Mode = "recorded", gpu: GpuFolder = "") -> list[Bar]:
        """Every cell of a figure in drawing order, measured or not."""
        why = refusal(number)
        if why is not None:
            raise HTTPException(404, why)
        if Source(mode=mode, gpu=gpu) not in entry(number, settings).sources:
            where = f"of {gpu}" if gpu else "without the name of a GPU"
            raise HTTPException(404, f"figure {number} has no {mode} records {where}")
        if number in MODEL_FIGURES:
            return [_bar(row) for row in _models(number, mode, gpu, settings)]
        return [_bar(row) for row in _products(number, mode, gpu, settings)]

    return routes


def entry(number: int, settings: Settings) -> FigureEntry:
    """One figure, and what it can be drawn from."""
    return FigureEntry(
        number=number,
        title=TITLES[number],
        picture="models" if number in MODEL_FIGURES else FIGURES[number].picture,
        sources=tuple(_sources(number, settings)),
    )


def _sources(number: int, settings: Settings) -> Iterator[Source]:
    merged = number in MODEL_FIGURES and MODEL_FIGURES[number].every_gpu
    for mode in MODES:
        gpus = [path.parent.name for path in record_paths(_root(mode, settings), number)]
        for gpu in [""] * bool(gpus) if merged else gpus:
            yield Source(mode=mode, gpu=gpu)


def _products(number: int, mode: Mode, gpu: str, settings: Settings) -> list[Row]:
    path = record_path(_root(mode, settings), gpu, number)
    return rows(FIGURES[number].cells, ledger(path).newest())


def _models(number: int, mode: Mode, gpu: str, settings: Settings) -> list[ModelRow]:
    root = _root(mode, settings)
    paths = [record_path(root, gpu, number)] if gpu else record_paths(root, number)
    found = newest_models(record for path in paths for record in load_models(path))
    return model_rows(MODEL_FIGURES[number].cells, found)


def _root(mode: Mode, settings: Settings) -> Path:
    return settings.recorded if mode == "recorded" else settings.results


def _bar(row: Row | ModelRow) -> Bar:
    return Bar(
        cell=row.cell,
        weight=tilus.dtype(row.cell.workload.b_dtype).short,
        status=row.status,
        speedup=row.speedup,
        record=row.record,
    )
