"""Makes .venv fit for this machine, with the standard library alone; the second time it is quick.

python3 scripts/environment.py ready [--test] [--wheels DIR]
python3 scripts/environment.py peers [--wheels DIR]        installs who is measured beside us
python3 scripts/environment.py wheels DIR [--measure] [--peers]    fills DIR for another machine
python3 scripts/environment.py requirements [EXTRA ...]    prints what pip shall install
"""

import argparse
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "ready.json"
PEERS = ROOT / ".peers"
PYTHON = VENV / "bin" / "python"
COMPILERS = ("g++", "clang++")
SERVERS = ("redis-server", "valkey-server")
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# On one machine, every service runs from the one environment.
SERVICES = frozenset({"api", "plotter", "driver"})
# A machine with a GPU has its own, made for its driver; they are large besides.
HEAVY = frozenset({"torch", "triton", "nvidia-cuda-nvrtc"})
OTHER_PYTHON = "3.12"
OTHER_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main() -> int:
    """Do one of the four; returns the exit code: 3 where this machine lacks something."""
    parser = argparse.ArgumentParser(prog="run.sh")
    verbs = parser.add_subparsers(dest="verb", required=True)
    ready = verbs.add_parser("ready")
    ready.add_argument("--test", action="store_true")
    ready.add_argument("--wheels", type=Path)
    peers = verbs.add_parser("peers")
    peers.add_argument("--wheels", type=Path)
    wheels = verbs.add_parser("wheels")
    wheels.add_argument("folder", type=Path)
    wheels.add_argument("--measure", action="store_true", help="without what only the tests need")
    wheels.add_argument("--peers", action="store_true", help="with those of the peers")
    wheels.add_argument("--python", default=OTHER_PYTHON)
    requirements = verbs.add_parser("requirements")
    requirements.add_argument("extras", nargs="*")
    options = parser.parse_args()
    if options.verb == "requirements":
        print("\n".join(required(set(options.extras))))
        return 0
    try:
        match options.verb:
            case "wheels":
                extras = {"embedded"} if options.measure else {"embedded", "test"}
                download(options.folder, options.python, extras, with_peers=options.peers)
            case "peers":
                make_ready(options.wheels, test=False)
                install_peers(peers_of_project(), options.wheels)
            case "ready":
                make_ready(options.wheels, test=options.test)
                if options.wheels is not None:
                    install_peers(carried(peers_of_project(), options.wheels), options.wheels)
    except subprocess.CalledProcessError as error:
        say(f"this ended with {error.returncode}: {' '.join(map(str, error.cmd))}")
        return 3
    except OSError as error:
        say(str(error))
        return 3
    return 0


def make_ready(wheels: Path | None, *, test: bool) -> None:
    """Install what is missing, and nothing where nothing is."""
    extras = needed_extras(test=test, carried=wheels is not None)
    stamp = read_stamp()
    current = stamp is not None and stamp["base"] == base()
    if current and extras <= set(stamp["extras"]):
        return
    if Path(sys.prefix).resolve() == VENV:
        raise OSError("the project's own .venv is active and out of date: deactivate it first")
    if not current:
        fresh_venv()
    else:
        extras |= set(stamp["extras"])
    STAMP.unlink(missing_ok=True)
    lend_packages()
    requirements = [one for one in required(extras) if name_of(one) not in lent()]
    say(f"installing {len(requirements)} packages into .venv, once")
    install(requirements, wheels)
    (site_packages() / "project.pth").write_text(f"{ROOT}\n")
    write_stamp(extras)


def needed_extras(*, test: bool, carried: bool) -> set[str]:
    """Which optional parts this machine needs; carried wheels have neither linters nor what drives
    a browser among them.
    """
    extras = {*SERVICES, "test"} if test else set(SERVICES)
    if test and not carried:
        extras.add("check")
        if any(shutil.which(name) for name in BROWSERS):
            extras.add("browser")
    if not any(shutil.which(name) for name in COMPILERS):
        extras.add("host")
    if not any(shutil.which(name) for name in SERVERS):
        extras.add("embedded")
    if has_gpu():
        extras.add("gpu")
    return extras


@cache
def has_gpu() -> bool:
    """Whether the driver shows a GPU."""
    try:
        asked = ["nvidia-smi", "--list-gpus"]
        done = subprocess.run(asked, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout


def required(extras: set[str]) -> list[str]:
    """The requirements of the project with these extras, each once."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = [project["dependencies"], *(project["optional-dependencies"][e] for e in extras)]
    return sorted({requirement for part in chosen for requirement in part})


def name_of(requirement: str) -> str:
    """The bare name of a requirement, in lower case."""
    return re.split(r"[^A-Za-z0-9_-]", requirement, maxsplit=1)[0].lower()


def package_of(wheel: Path) -> str:
    """The name of a wheel's package, as `name_of` writes it."""
    return wheel.name.split("-")[0].replace("_", "-").lower()


def lent() -> frozenset[str]:
    """The packages that are taken from the Python that runs this, if it has them."""
    return HEAVY if has_torch() else frozenset()


@cache
def has_torch() -> bool:
    """Whether the Python that runs this can import torch, on a machine with a GPU."""
    if not has_gpu():
        return False
    asked = [sys.executable, "-c", "import torch, triton"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def lend_packages() -> None:
    """Let the new environment see this Python's packages, after its own, where it has torch."""
    if not has_torch():
        return
    folders = [Path(folder) for folder in sys.path if Path(folder).name.endswith("-packages")]
    (site_packages() / "lent.pth").write_text("".join(f"{folder}\n" for folder in folders))
    # CUDA's libraries are looked for in the environment's own folder alone. A set-up that adds
    # to an earlier one finds that one's link there.
    link = site_packages() / "nvidia"
    if link.is_symlink():
        link.unlink()
    for folder in folders:
        if (folder / "nvidia").is_dir() and not link.exists():
            link.symlink_to(folder / "nvidia")
            return


def fresh_venv() -> None:
    """A new environment; what an interrupted set-up left goes first."""
    say(f"making .venv with Python {platform.python_version()}")
    if VENV.exists():
        shutil.rmtree(VENV)
    try:
        venv.EnvBuilder(with_pip=True, symlinks=True).create(VENV)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        raise OSError("python3 cannot make an environment: install python3-venv") from None


def install(requirements: list[str], wheels: Path | None) -> None:
    """Have pip install them, from a folder if one is given."""
    source = ["--no-index", "--find-links", str(wheels.resolve())] if wheels else []
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *source, *requirements], check=True, stdout=sys.stderr)


def peers_of_project() -> dict[str, list[str]]:
    """What each peer needs, by its name."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    found: dict[str, list[str]] = tool["tilus-fleet"]["peers"]
    return found


def travelling(peers: dict[str, list[str]]) -> dict[str, list[str]]:
    """The peers that are needed where there is a GPU; of the others only kernels are."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    return {name: peers[name] for name in peers if name not in tool["tilus-fleet"]["compiling"]}


def carried(peers: dict[str, list[str]], wheels: Path) -> dict[str, list[str]]:
    """The peers whose wheels are all in the folder."""
    there = {package_of(path) for path in wheels.glob("*.whl")}
    return {name: needs for name, needs in peers.items() if {*map(name_of, needs)} <= there}


def install_peers(peers: dict[str, list[str]], wheels: Path | None) -> None:
    """Install each peer into its folder, alone and without dependencies, unless it is there."""
    for name, requirements in peers.items():
        home = PEERS / name
        stamp = home / "ready.json"
        said = json.dumps([base(), requirements])
        if stamp.exists() and stamp.read_text() == said:
            continue
        shutil.rmtree(home, ignore_errors=True)
        say(f"installing the peer {name} into {home}, once")
        install(["--no-deps", "--target", str(home), *requirements], wheels)
        stamp.write_text(said)


def download(folder: Path, python: str, extras: set[str], *, with_peers: bool) -> None:
    """Fetch wheels for an x86_64 machine that has a GPU, torch and triton, but no network."""
    make_ready(None, test=False)
    requirements = [
        one for one in required({*SERVICES, *extras}) if name_of(one) not in HEAVY | {"numpy"}
    ]
    pip = [str(PYTHON), "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    platforms = [part for one in OTHER_PLATFORMS for part in ("--platform", one)]
    target = ["--only-binary", ":all:", "--python-version", python, *platforms]
    folder.mkdir(parents=True, exist_ok=True)
    command = [*pip, *target, "--dest", str(folder)]
    subprocess.run([*command, *requirements], check=True, stdout=sys.stderr)
    for path in folder.glob("*.whl"):
        if package_of(path) in HEAVY | {"numpy"}:
            path.unlink()
    if with_peers:
        peers = travelling(peers_of_project())
        needs = sorted({need for needs in peers.values() for need in needs})
        subprocess.run([*command, "--no-deps", *needs], check=True, stdout=sys.stderr)
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    say(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size >> 20} MiB")


def base() -> str:
    """What an environment depends on: the requirements and the Python that it is made with."""
    parts = [
        (ROOT / "pyproject.toml").read_text(),
        platform.python_version(),
        sys.base_prefix,
        str(VENV),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_stamp() -> dict[str, list[str] | str] | None:
    """What the finished environment says of itself; None if it is not finished."""
    try:
        return json.loads(STAMP.read_text()) if PYTHON.exists() else None
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_stamp(extras: set[str]) -> None:
    """Say that the environment is finished; nothing counts before."""
    half = STAMP.with_suffix(".half")
    half.write_text(json.dumps({"base": base(), "extras": sorted(extras)}))
    half.replace(STAMP)


def site_packages() -> Path:
    """Where the environment keeps its packages."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(VENV)}))


def say(text: str) -> None:
    """A line for the user."""
    print(f"run.sh: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
