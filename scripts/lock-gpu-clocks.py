#!/usr/bin/env python3
"""Lock the clocks of GPUs, so that numbers measured on them can be compared; needs root.

    sudo scripts/lock-gpu-clocks.py base       at the clock that the GPU holds under any load
    sudo scripts/lock-gpu-clocks.py max        at its highest, which heat or power may take away
    sudo scripts/lock-gpu-clocks.py 1500       at the supported clock that is nearest, in MHz
    sudo scripts/lock-gpu-clocks.py reset      as the driver would have them
    scripts/lock-gpu-clocks.py status          what they are now

Both clocks are locked, that of the multiprocessors and that of the memory (at its highest). The
exit code is 0, or 1 where a GPU refused, 2 for nonsense, 3 where no GPU can be asked. Runners are
told what was locked by TILUS_SM_MHZ: records whose clock is off it by more than 1% are flagged.
"""

import argparse
import csv
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

OK, REFUSED, USAGE, NO_GPU = 0, 1, 2, 3
SECONDS = 30.0  # nvidia-smi hangs where a GPU does
FIELDS = (
    "uuid",
    "name",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "clocks.default_applications.graphics",
)
CHOICES = ("base", "max", "reset", "status")


class Unasked(Exception):
    """nvidia-smi is not there, does not answer, or says no."""


class Gpu(NamedTuple):
    """One GPU and its clocks in MHz; None where it does not say."""

    uuid: str
    name: str
    sm: int | None
    memory: int | None
    most_sm: int | None
    most_memory: int | None
    base_sm: int | None


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; returns the exit code."""
    words, more = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(
        prog="lock-gpu-clocks.py",
        description=words,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="|".join([*CHOICES, "MHZ"]), type=choice)
    parser.add_argument("--gpu", action="append", metavar="UUID", help="only this one; repeatable")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    asked = parser.parse_args(arguments)
    try:
        found = chosen(gpus(), asked.gpu)
    except Unasked as error:
        return say(str(error), NO_GPU)
    done = [change(gpu, asked.what, dry=asked.dry_run) for gpu in found]
    return OK if all(done) else REFUSED


def choice(text: str) -> str:
    """What is to be done: one of CHOICES or a number of MHz."""
    if text in CHOICES or text.isdigit():
        return text
    raise argparse.ArgumentTypeError(f"say {', '.join(CHOICES)} or a number of MHz, not {text!r}")


def gpus() -> list[Gpu]:
    """Every GPU of this machine; Unasked if there is none."""
    rows = query(f"--query-gpu={','.join(FIELDS)}")
    if not rows:
        raise Unasked("nvidia-smi shows no GPU")
    return [Gpu(uuid, name, *map(number, clocks)) for uuid, name, *clocks in rows]


def chosen(found: list[Gpu], uuids: list[str] | None) -> list[Gpu]:
    """Those that were named, else all; Unasked if one is not there."""
    there = {gpu.uuid: gpu for gpu in found}
    for uuid in uuids or ():
        if uuid not in there:
            raise Unasked(f"there is no GPU {uuid}: nvidia-smi shows {', '.join(there)}")
    return [there[uuid] for uuid in uuids] if uuids else found


def change(gpu: Gpu, what: str, *, dry: bool) -> bool:
    """Do it to one GPU, and say what came of it; False if it refused."""
    if what == "status":
        say(f"{gpu.uuid} {gpu.name}: {gpu.sm} MHz of {gpu.most_sm}, "
            f"memory {gpu.memory} of {gpu.most_memory}")  # fmt: skip
        return True
    try:
        for command in commands(gpu, what):
            if dry:
                print(shlex.join(command))
            else:
                run(command)
    except Unasked as error:
        say(f"{gpu.uuid} {gpu.name}: {error}")
        return False
    if not dry and what != "reset":
        say(f"{gpu.uuid} {gpu.name}: locked. For its runner: TILUS_SM_MHZ={target(gpu, what)}")
    return True


def commands(gpu: Gpu, what: str) -> list[list[str]]:
    """What is to be run for one GPU, in order."""
    ask = ["nvidia-smi", f"--id={gpu.uuid}"]
    if what == "reset":
        return [[*ask, "--reset-gpu-clocks"], [*ask, "--reset-memory-clocks"]]
    sm, memory = target(gpu, what), gpu.most_memory
    if memory is None:
        raise Unasked("it does not say what its memory clock can be: nothing was locked")
    # without persistence the driver forgets the lock as soon as nobody uses the GPU
    return [
        [*ask, "--persistence-mode=1"],
        [*ask, f"--lock-gpu-clocks={sm},{sm}"],
        [*ask, f"--lock-memory-clocks={memory},{memory}"],
    ]


def target(gpu: Gpu, what: str) -> int:
    """The clock to lock the multiprocessors at, in MHz; Unasked if the GPU does not say."""
    wanted = {"base": gpu.base_sm, "max": gpu.most_sm}.get(what, number(what))
    if wanted is None:
        raise Unasked(f"it does not say what its {what} clock is: give a number of MHz")
    rows = query("--query-supported-clocks=graphics", gpu.uuid)
    supported = sorted({clock for row in rows if (clock := number(row[0])) is not None})
    return min(supported, key=lambda clock: abs(clock - wanted), default=wanted)


def query(question: str, uuid: str | None = None) -> list[list[str]]:
    """What nvidia-smi answers, a list for each line."""
    of = [] if uuid is None else [f"--id={uuid}"]
    said = run(["nvidia-smi", *of, question, "--format=csv,noheader,nounits"])
    return [[part.strip() for part in row] for row in csv.reader(said.splitlines()) if row]


def run(command: list[str]) -> str:
    """What a command says; Unasked if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise Unasked("there is no nvidia-smi here: it comes with NVIDIA's driver") from None
    except subprocess.TimeoutExpired:
        raise Unasked(f"nvidia-smi does not answer within {SECONDS:.0f} s") from None
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0 and "permission" in said.lower():
        raise Unasked("only root may change clocks: run this with sudo")
    if done.returncode != 0 or "not supported" in said.lower():
        raise Unasked(f"{shlex.join(command)}: {said or done.returncode}")
    return done.stdout


def number(text: str) -> int | None:
    """MHz; None for what nvidia-smi writes where it does not know."""
    return int(text) if text.isdigit() else None


def say(text: str, code: int = OK) -> int:
    """A line for people; the code itself."""
    print(f"lock-gpu-clocks: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
