"""Looking after the store from a shell: `bash enter.sh COMMAND`, `python -m services.driver.cache`.

Everything is about the folder of this machine; what is imported also goes to STORE_URL.
"""

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from services.driver import ahead
from services.driver.shelf import title
from services.revision import revision
from services.selection import BadRequest
from services.settings import Settings, load
from services.store import Damaged, Folder, Unreachable, bundle, open_store, upkeep

OK, FAILED = 0, 1
SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SHORT = 12
FIRST_DIGITS = "the first digits of a key"


class Refused(Exception):
    """What was asked cannot be done: says why and what can."""


Command = Callable[[Folder, argparse.Namespace, Settings], int]


def main(arguments: list[str]) -> int:
    """Do one command; returns the exit code: 1 where something is damaged or cannot be done."""
    options = parser().parse_args(arguments)
    settings = load()
    command: Command = options.command
    try:
        return command(open_store(settings), options, settings)
    except (Refused, BadRequest, Damaged, Unreachable, bundle.BadBundle, OSError) as error:
        print(f"enter.sh: {error}", file=sys.stderr)
        return FAILED


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    made = argparse.ArgumentParser(
        prog="enter.sh",
        description="Without a command: a shell where every compiled kernel is a folder.",
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, what: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=what, description=what)
        one.set_defaults(command=command)
        return one

    one = add("ls", listed, "the artifacts, a line each: key, bytes, days unused, what it is")
    one.add_argument("keys", nargs="*", metavar="KEY", help=FIRST_DIGITS)
    add("show", shown, "all that is known of one artifact").add_argument(
        "key", metavar="KEY", help=FIRST_DIGITS
    )
    add("verify", verified, "read every byte; what is damaged is set aside and compiled again")
    one = add("gc", collected, "remove what no artifact names, and artifacts beyond these limits")
    one.add_argument("--max-bytes", type=size, default=math.inf, metavar="20G")
    one.add_argument("--max-age", type=span, default=math.inf, metavar="30d", help="since last use")
    one.add_argument("--dry-run", action="store_true", help="only say what would go")
    ahead.add_flags(add("compile", ahead.compiled, "what the cells of a figure would try, no GPU"))
    one = add("export", exported, "write artifacts into one file that travels")
    one.add_argument("file", type=Path)
    one.add_argument("keys", nargs="*", metavar="KEY", help=FIRST_DIGITS)
    add("import", imported, "verify such a file and store what it holds").add_argument(
        "file", type=Path
    )
    return made


def listed(folder: Folder, options: argparse.Namespace, _: Settings) -> int:
    """A line for each artifact."""
    for key in chosen(folder, options.keys):
        manifest = folder.known(key)
        if manifest is None:
            continue
        days = (time.time() - folder.path("ac", key).stat().st_mtime) / SPANS["d"]
        total = sum(folder.sizes(manifest).values())
        kind = title(manifest.spec) if manifest.files else f"check of {title(manifest.spec)}"
        print(f"{key[:SHORT]}  {total:>10}  {days:>6.1f}  {kind}")
    return OK


def shown(folder: Folder, options: argparse.Namespace, _: Settings) -> int:
    """The manifest, and whether each file is there whole."""
    [key] = chosen(folder, [options.key])
    manifest = folder.known(key)
    if manifest is None:
        raise Refused(f"the manifest of {key[:SHORT]} was damaged: compile it again")
    print(manifest.model_dump_json(indent=2))
    lost = [name for name, each in manifest.files.items() if folder.look("cas", each) is None]
    for name in lost:
        print(f"enter.sh: {name} is gone or was damaged: compile it again", file=sys.stderr)
    return FAILED if lost else OK


def verified(folder: Folder, _: argparse.Namespace, __: Settings) -> int:
    """Every byte, and a line for each that is not what it should be."""
    found = upkeep.verify(folder)
    for name in found.damaged:
        print(f"damaged     {name}")
    for key in found.incomplete:
        print(f"incomplete  {key}")
    print(
        f"{len(found.artifacts)} artifacts whole, {len(found.incomplete)} not; "
        f"{len(found.objects)} files whole, {len(found.unnamed)} of them without an artifact; "
        f"{len(found.damaged)} damaged"
    )
    return OK if found.good else FAILED


def collected(folder: Folder, options: argparse.Namespace, _: Settings) -> int:
    """What went and what is left."""
    gone = upkeep.collect(folder, options.max_bytes, options.max_age, dry=options.dry_run)
    verb = "would go" if options.dry_run else "went"
    print(
        f"{len(gone.artifacts)} artifacts and {len(gone.objects)} files {verb}, "
        f"{gone.bytes} bytes; {gone.left} bytes are left"
    )
    return OK


def exported(folder: Folder, options: argparse.Namespace, settings: Settings) -> int:
    """The chosen artifacts that are whole, into a file."""
    keys = chosen(folder, options.keys)
    done = bundle.export(folder, keys, options.file, revision(settings.commit).commit)
    print(f"{len(done)} artifacts, {options.file.stat().st_size} bytes: {options.file}")
    for key in sorted({*keys} - {*done}):
        print(f"enter.sh: {key[:SHORT]} is not whole and was left out", file=sys.stderr)
    return OK if len(done) == len(keys) else FAILED


def imported(folder: Folder, options: argparse.Namespace, settings: Settings) -> int:
    """All that a file holds, or nothing."""
    keys = bundle.load(options.file, folder, settings.artifact_limit)
    print(f"{len(keys)} artifacts imported")
    return OK


def chosen(folder: Folder, beginnings: Iterable[str]) -> list[str]:
    """The keys that begin so, each beginning being that of one; without any, every key."""
    every = list(folder.every_key())
    found = [_only(beginning, every) for beginning in beginnings]
    return found or every


def _only(beginning: str, every: list[str]) -> str:
    match [key for key in every if key.startswith(beginning)]:
        case [key]:
            return key
        case []:
            raise Refused(f"no key begins with {beginning}: see bash enter.sh ls")
        case several:
            raise Refused(f"{len(several)} keys begin with {beginning}: give more digits")


def size(text: str) -> int:
    """Bytes from 500M, 20G."""
    return _scaled(text, SIZES, "bytes such as 500M or 20G")


def span(text: str) -> int:
    """Seconds from 12h, 30d."""
    return _scaled(text, SPANS, "a time such as 12h or 30d")


def _scaled(text: str, units: dict[str, int], what: str) -> int:
    found = re.fullmatch(r"(\d+)([A-Za-z]?)", text)
    if found is None or found[2] not in units:
        raise argparse.ArgumentTypeError(f"give {what}, not {text!r}")
    return int(found[1]) * units[found[2]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
