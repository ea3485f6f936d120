"""The fleet in containers; where an engine or an image is missing, the reason is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.settings import ROOT

BASE_IMAGE = os.environ.get("BASE_IMAGE", "python:3.11-slim-bookworm")
GPU = ["--file", "compose.yaml", "--file", "compose.gpu.yaml", "--profile", "gpu"]


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError as error:
        return subprocess.CompletedProcess(arguments, 127, "", str(error))


def needs(what: str, *arguments: str) -> pytest.MarkDecorator:
    """Skip where `docker arguments` does not work."""
    done = docker(*arguments)
    reason = f"{what}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"
    return pytest.mark.skipif(done.returncode != 0, reason=reason)


compose = needs("no Docker Compose here", "compose", "version")
engine = needs("no Docker engine here", "info")
image = needs(f"no image {BASE_IMAGE} here", "image", "inspect", BASE_IMAGE)

pytestmark = pytest.mark.compose


def services(*files: str) -> dict[str, dict]:
    done = docker("compose", *files, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


@compose
def test_the_files_are_what_compose_accepts():
    assert set(services()) == {"redis", "api", "compiler", "plotter"}
    assert set(services(*GPU)) == {"redis", "api", "compiler", "plotter", "runner"}


@compose
def test_every_container_is_closed():
    for name, service in services(*GPU).items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["init"], name
        assert not service.get("privileged") and not service.get("cap_add"), name
        assert ("ports" in service) == ("front" in service["networks"]) == (name == "api")


@compose
def test_only_this_machine_reaches_the_api():
    assert [port["host_ip"] for port in services()["api"]["ports"]] == ["127.0.0.1"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("services/*/Dockerfile")), ids=str)
def test_no_container_runs_as_root(path: Path):
    lines = path.read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and all(int(user.split(":")[0]) > 0 for user in users)
    assert "ARG BASE_IMAGE" in lines[1]


@compose
@engine
@image
def test_a_figure_is_made_in_containers(tmp_path):
    command = [sys.executable, "-m", "services.driver", "--mode", "compose", "--json"]
    folders = {"TILUS_STATE": str(tmp_path / "state"), "TILUS_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(
        [*command, "--figure", "9", "--dtypes", "u4"],
        cwd=ROOT,
        env=os.environ | folders | {"BASE_IMAGE": BASE_IMAGE},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["run"]["counts"]["draw"] == {"done": 1}
    assert summary["run"]["largest_error"] < 2e-3
    assert all(Path(name).stat().st_size > 0 for name in summary["files"])
