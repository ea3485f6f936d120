"""The driver: asks for figures, starts what that needs, follows it, says what came out."""

import json
import shutil
import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import httpx
from rich.console import Console

from services.driver import compose, table, tuning
from services.driver.options import Mode, Options, parse
from services.driver.processes import CannotStart, Household, local_fleet, locked
from services.driver.progress import display
from services.executors import EXECUTORS
from services.experiments import MODEL_FIGURES
from services.figures import BENCH, TABLES, TITLES, TUNE
from services.gpu import Device, devices
from services.messages import TRIED, Cell, Failure, RunRequest, RunState
from services.planning import recorded_gpus
from services.records import Record, gpu_folder, ledger, record_path
from services.reference import check_reference, from_file
from services.revision import revision
from services.selection import BadRequest, check, fitted, no_records, selected
from services.settings import Settings, load
from tilus import tuned

OK, FAILED, USAGE, ENVIRONMENT = 0, 1, 2, 3
POLL_SECONDS = {"recorded": 0.25, "measured": 1.0}  # a measuring machine is left in peace
PATIENCE_SECONDS = 60.0
SHOWN_REASONS = 10


class Session(NamedTuple):
    """What all figures of one command share."""

    options: Options
    settings: Settings
    mode: Mode
    device: Device | None
    console: Console


class Outcome(NamedTuple):
    """How one figure ended."""

    state: RunState
    seconds: float


def main(arguments: list[str]) -> int:
    """Do what the command line says; returns the exit code."""
    console = Console(stderr=True, soft_wrap=True)
    try:
        return _main(parse(arguments), console)
    except BadRequest as error:
        console.print(f"run.sh: {error}", style="red", markup=False, highlight=False)
        return USAGE
    except CannotStart as error:
        console.print(f"run.sh: {error}", style="red", markup=False, highlight=False)
        return ENVIRONMENT
    except KeyboardInterrupt:
        console.print("stopped: the same command goes on from here")
        return 130


def _main(options: Options, console: Console) -> int:
    settings = load()
    settings = settings.model_copy(update={"commit": revision(settings.commit).commit})
    session = _session(options, settings, console)
    if options.no_cache and settings.store_url:
        raise BadRequest("--no-cache forgets kernels, and others use those of STORE_URL: unset it")
    if options.figure == BENCH:
        return _bench(session)
    if options.figure == TUNE:
        return _tune(session)
    requests = [_one(options.figure, session)] if options.figure is not None else _all(session)
    if session.device is None and options.mode == "auto":
        console.print("no GPU here: times come from the records that came with the project")
    outcomes = _made(requests, session)
    for outcome in outcomes:
        _tell(outcome, session)
    return FAILED if any(failed(outcome.state) for outcome in outcomes) else OK


def _made(requests: list[RunRequest], session: Session) -> list[Outcome]:
    """How the requests ended, all followed in one fleet."""
    settings = session.settings
    with locked(settings.state):
        if session.options.no_cache:
            _forget(settings.store)
        with _fleet(session) as (household, client):
            outcomes = list(_followed(requests, household, client, session))
            if session.mode == "compose":
                compose.fetch_figures(client, [o.state for o in outcomes], settings.results)
    return outcomes


def _followed(
    requests: list[RunRequest], household: Household, client: httpx.Client, session: Session
) -> Iterator[Outcome]:
    """How they ended; each is planned while the one before it is worked on."""
    begun = (_begin(request, client) for request in requests)
    ahead = next(begun, None)
    while ahead is not None:
        state, ahead = ahead, next(begun, None)
        yield _follow(state, household, client, session)


def _tune(session: Session) -> int:
    """Measure many schedules for each cell that is not tuned, and keep what won."""
    if session.mode == "compose":
        raise BadRequest("the tuner runs on this machine itself: --mode local")
    if session.device is None:
        raise CannotStart("tuning measures, and there is no GPU here")
    options, settings = session.options, session.settings
    request, at = _request(TUNE, session), revision(session.settings.commit)
    cells = selected(request)
    path = record_path(settings.results, request.gpu, TUNE)
    known = {} if options.fresh else _of_device(path, request.uuid)
    missing = tuning.untuned(cells, known, at, request.limit)
    requests = [tuning.part(request, cell) for cell in missing]
    outcomes = _made(requests, session) if requests else []
    known = _of_device(path, request.uuid)
    won = tuning.entries(known[cell] for cell in cells if cell in known)
    kept = tuned.keep(won, tuned.FOLDER)
    _complain(outcomes, session)
    if options.json:
        found = [known[cell].model_dump(mode="json") for cell in cells if cell in known]
        json.dump({"records": str(path), "kept": [str(file) for file in kept], "rows": found},
                  sys.stdout)  # fmt: skip
        sys.stdout.write("\n")
    else:
        sys.stdout.write("\n".join([*tuning.lines(cells, known), ""]))
    for file in (path, *kept):
        session.console.print(str(file), markup=False, highlight=False)
    return FAILED if any(failed(outcome.state) for outcome in outcomes) else OK


def _of_device(path: Path, uuid: str) -> dict[Cell, Record]:
    """The newest records of a file that this device made."""
    return {c: r for c, r in ledger(path).newest().items() if r.gpu.uuid == uuid}


def _bench(session: Session) -> int:
    """Measure what is not measured, and print the table; without a GPU that of the records."""
    if session.mode == "compose":
        raise BadRequest("the benchmark runs on this machine itself: --mode local")
    request = _request(BENCH, session)
    cells = selected(request)
    if session.device is None:
        path = _recorded_bench(session)
        known = ledger(path).newest()
        outcomes = []
    else:
        outcomes = _made([request], session)
        path = record_path(session.settings.results, request.gpu, BENCH)
        known = _of_device(path, request.uuid)
    rows = table.rows(cells, known, EXECUTORS)
    _complain(outcomes, session)
    where = table.provenance(cells, known)
    if session.options.json:
        data = {"records": str(path), "measured": where, **table.as_data(rows)}
        json.dump(data, sys.stdout)
        sys.stdout.write("\n")
    else:
        sys.stdout.write("\n".join([table.as_text(rows), *where, ""]))
    session.console.print(f"records: {path}", markup=False, highlight=False)
    return FAILED if any(failed(outcome.state) for outcome in outcomes) else OK


def _recorded_bench(session: Session) -> Path:
    """The records that came with the project, of the reference GPU if there are; CannotStart."""
    root = session.settings.recorded
    gpus = recorded_gpus(root, BENCH)
    if not gpus:
        raise CannotStart(
            f"there is no GPU here, and no bench.jsonl in {root}: run bash run.sh bench on a "
            f"machine with one, and copy results/<gpu>/bench.jsonl from there to {root}/<gpu>/"
        )
    session.console.print("no GPU here: times come from the records that came with the project")
    return record_path(root, gpus[0], BENCH)


def _session(options: Options, settings: Settings, console: Console) -> Session:
    present = devices()
    device = _device(options.device, present)
    match options.mode:
        case "auto" if device is None:
            mode: Mode = "recorded"
        case "auto":
            mode = "local"
        case "local" if device is None:
            raise CannotStart("--mode local measures, and there is no GPU here: --mode recorded")
        case chosen:
            mode = chosen
    return Session(options, settings, mode, None if mode == "recorded" else device, console)


def _device(asked: str | None, present: list[Device]) -> Device | None:
    """The device that was asked for, else the first; None for "cpu" or where there is none."""
    if asked is None:
        return present[0] if present else None
    if asked == "cpu":
        return None
    for device in present:
        if asked in (f"cuda:{device.index}", device.uuid):
            return device
    there = ", ".join(f"cuda:{device.index} ({device.name})" for device in present)
    raise BadRequest(f"there is no device {asked}: this machine has {there or 'no GPU'}")


def _one(figure: int, session: Session) -> RunRequest:
    """The request of a figure; BadRequest or CannotStart where nothing can come of it."""
    request = _request(figure, session)
    check(request)
    check_reference(request)
    return _drawable(request, session)


def _all(session: Session) -> list[RunRequest]:
    """The requests of every figure that has what is asked for; the others are left out, aloud."""
    requests, left = [], []
    for figure in sorted(TITLES):
        try:
            requests.append(_drawable(fitted(_request(figure, session)), session))
        except (BadRequest, CannotStart) as error:
            left.append(error)
    if not requests:
        raise left[0]
    for reason in left:
        session.console.print(f"left out: {reason}", markup=False, highlight=False)
    return requests


def _drawable(request: RunRequest, session: Session) -> RunRequest:
    """The request; CannotStart if it needs records, and there are none."""
    why = no_records(request.figure, session.settings.recorded)
    if request.mode == "recorded" and why is not None:
        raise CannotStart(why)
    return request


def _request(figure: int, session: Session) -> RunRequest:
    options, device = session.options, session.device
    fresh = str(time.time_ns()) if options.fresh else ""
    reference = None if options.reference is None else from_file(options.reference)
    common: dict[str, object] = {
        "figure": figure,
        "executors": options.executors,
        "dtypes": options.dtypes,
        "group_size": options.group_size,
        "reference": reference,
    }
    if figure in TABLES:
        common |= {"shapes": options.shapes, "batches": options.batches}
    if figure == TUNE:
        common |= {"limit": options.limit or TRIED}
    if device is None or figure in MODEL_FIGURES:
        return RunRequest.model_validate({**common, "mode": "recorded"})
    measured = {
        "mode": "measured",
        "arch": device.arch,
        "gpu": gpu_folder(device.name),
        "uuid": device.uuid,
        "fresh": fresh,
    }
    return RunRequest.model_validate(common | measured)


def _forget(store: Path) -> None:
    if store.is_dir():
        aside = store.with_name(f"{store.name}.{time.time_ns()}.old")
        store.rename(aside)
        shutil.rmtree(aside)


def _fleet(session: Session) -> AbstractContextManager[tuple[Household, httpx.Client]]:
    device = session.device
    gpu = None if device is None else gpu_folder(device.name)
    if session.mode == "compose":
        return compose.fleet(session.settings, gpu, empty=session.options.no_cache)
    return local_fleet(session.settings, gpu, device=device.index if device else 0)


class Begun(NamedTuple):
    """A run as it stood when it was accepted, and when that was asked for."""

    state: RunState
    started: float


def _begin(request: RunRequest, client: httpx.Client) -> Begun:
    started = time.monotonic()
    answer = client.post("/v1/runs", json=request.model_dump(mode="json"), timeout=300)
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        raise BadRequest(answer.json()["detail"])
    answer.raise_for_status()
    return Begun(RunState.model_validate_json(answer.content), started)


def _follow(begun: Begun, household: Household, client: httpx.Client, session: Session) -> Outcome:
    state, started = begun
    heard = time.monotonic()
    with display(session.console) as shown:
        while not state.finished:
            shown.show(state)
            time.sleep(POLL_SECONDS[state.request.mode])
            household.watch()
            try:
                answer = client.get(f"/v1/runs/{state.id}").raise_for_status()
                state = RunState.model_validate_json(answer.content)
                heard = time.monotonic()
            except httpx.HTTPError as error:
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise CannotStart(f"the api stopped answering: {error}") from None
        shown.show(state)
    return Outcome(state, time.monotonic() - started)


def failed(state: RunState) -> list[Failure]:
    """The failures that cost a point: a measured cell may do without one of its kernels."""
    spare = "compile" if state.request.mode == "measured" else None
    return [failure for failure in state.failures if failure.kind != spare]


def _tell(outcome: Outcome, session: Session) -> None:
    state, settings = outcome.state, session.settings
    files = [settings.results / name for name in state.figures]
    if session.options.json:
        json.dump(_summary(outcome, files), sys.stdout)
        sys.stdout.write("\n")
    say = session.console.print
    _complain([outcome], session)
    for line in _sentences(outcome):
        say(line, highlight=False, markup=False)
    for path in files:
        say(str(path), highlight=False, markup=False)
    if session.options.open and files:
        webbrowser.open(files[0].as_uri())


def _complain(outcomes: list[Outcome], session: Session) -> None:
    for line in (line for outcome in outcomes for line in complaints(outcome.state)):
        session.console.print(line, style="red", markup=False, highlight=False)


def complaints(state: RunState) -> list[str]:
    """What failed, in a line for each reason: those that cost a point first."""
    costly = failed(state)
    ordered = sorted(state.failures, key=lambda failure: failure not in costly)
    alike = Counter((failure.kind, failure.reason) for failure in ordered)
    first = {(failure.kind, failure.reason): failure.title for failure in reversed(ordered)}
    lines = [
        f"{kind} failed: {first[kind, reason]}{_others(number - 1)}: {reason}"
        for (kind, reason), number in alike.items()
    ]
    hidden = len(lines) - SHOWN_REASONS
    return [*lines[:SHOWN_REASONS], *([f"... and {hidden} more reasons"] if hidden > 0 else [])]


def _others(number: int) -> str:
    return f" and {number} others" if number else ""


def _sentences(outcome: Outcome) -> list[str]:
    state = outcome.state
    compiled, checked = state.counts.get("compile", {}), state.counts.get("check", {})
    measured = state.counts.get("measure", {})
    lines = []
    if compiled:
        lines.append(
            f"{compiled.get('done', 0)} kernels compiled for {state.request.arch}, "
            f"{compiled.get('stored', 0)} from the store"
        )
    error = "" if state.largest_error is None else f", largest error {state.largest_error:.1e}"
    if checked:
        lines.append(
            f"{checked.get('done', 0)} kernels checked on the CPU, {checked.get('stored', 0)} were "
            f"before ({state.check_seconds:.0f} s in all){error}"
        )
    if measured:
        lines.append(
            f"{measured.get('done', 0)} cells measured, {measured.get('stored', 0)} were before"
            f"{error}"
        )
    if state.missing:
        cells = ", ".join(f"{name} {count}" for name, count in sorted(state.missing.items()))
        lines.append(
            f"{sum(state.missing.values())} cells have no number and are marked n/a: {cells}"
        )
    if state.changed:
        lines.append(
            f"{state.changed} recorded kernels are no longer what this code makes: measure again"
        )
    return [*lines, f"figure {state.request.figure} took {outcome.seconds:.1f} s:"]


def _summary(outcome: Outcome, files: list[Path]) -> dict[str, object]:
    return {
        "run": outcome.state.model_dump(mode="json"),
        "files": [str(path) for path in files],
        "seconds": round(outcome.seconds, 3),
    }
