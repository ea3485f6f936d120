"""The script that locks clocks, against an nvidia-smi that only remembers what it was told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "lock-gpu-clocks.py"
FAKE = (
    f"#!{sys.executable}\n"
    + """
import json, os, sys
from pathlib import Path
asked, home = sys.argv[1:], Path(__file__).parent
machine = json.loads((home / "machine.json").read_text())
log = home / "log"
chosen = [a.removeprefix("--id=") for a in asked if a.startswith("--id=")]
[question] = [a for a in asked if not a.startswith(("--id=", "--format="))]
gpus = {u: g for u, g in machine["gpus"].items() if not chosen or u in chosen}
if question.startswith("--query-gpu="):
    for uuid, gpu in gpus.items():
        print(", ".join({"uuid": uuid, **gpu}[f] for f in question[12:].split(",")))
elif question.startswith("--query-supported-clocks="):
    print("\\n".join(map(str, machine["supported"])))
elif not machine["root"]:
    print("The current user does not have permission to change clocks for GPU 0.")
    sys.exit(4)
elif question.startswith(tuple(machine.get("refuses", ["none"]))):
    print("Setting locked memory clocks is not supported for GPU 0.")
else:
    with log.open("a") as file:
        file.write(f"{chosen[0]} {question}\\n")
"""
)
H200 = {
    "name": "NVIDIA H200", "clocks.sm": "345", "clocks.mem": "3201", "clocks.max.sm": "1980",
    "clocks.max.mem": "3201", "clocks.default_applications.graphics": "1830",
}  # fmt: skip
MACHINE = {
    "root": True,
    "supported": [1980, 1965, 1830, 1500, 345],
    "gpus": {"GPU-a": H200, "GPU-b": H200},
}


@pytest.fixture
def machine(tmp_path):
    """Call it with the arguments of the script and what is otherwise on this machine."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(FAKE)
    tool.chmod(0o755)

    def run(*arguments, path=str(tmp_path), **changes):
        (tmp_path / "machine.json").write_text(json.dumps(MACHINE | changes))
        (tmp_path / "log").write_text("")
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done, (tmp_path / "log").read_text().splitlines()

    return run


@pytest.mark.parametrize(
    ("what", "clock"),
    [("base", 1830), ("max", 1980), ("1500", 1500), ("1600", 1500), ("99999", 1980)],
)
def test_both_clocks_of_every_gpu_are_locked_and_stay_locked(machine, what, clock):
    done, log = machine(what)
    assert done.returncode == 0
    assert log == [
        f"{uuid} --{command}"
        for uuid in ("GPU-a", "GPU-b")
        for command in (
            "persistence-mode=1",
            f"lock-gpu-clocks={clock},{clock}",
            "lock-memory-clocks=3201,3201",
        )
    ]
    assert done.stderr.count(f"TILUS_SM_MHZ={clock}") == 2


def test_reset_gives_both_clocks_back(machine):
    done, log = machine("reset", "--gpu", "GPU-b")
    assert done.returncode == 0
    assert log == ["GPU-b --reset-gpu-clocks", "GPU-b --reset-memory-clocks"]


@pytest.mark.parametrize("what", ["base", "max", "reset", "1500"])
def test_a_dry_run_says_it_all_and_changes_nothing(machine, what):
    done, log = machine(what, "--dry-run")
    assert done.returncode == 0 and log == []
    _, real = machine(what)
    said = [line.removeprefix("nvidia-smi --id=") for line in done.stdout.splitlines()]
    assert said == real


def test_status_changes_nothing(machine):
    done, log = machine("status", root=False)
    assert done.returncode == 0 and log == []
    assert "GPU-a NVIDIA H200: 345 MHz of 1980, memory 3201 of 3201" in done.stderr


def test_who_may_not_is_told_what_to_do(machine):
    done, log = machine("base", root=False)
    assert done.returncode == 1 and log == [] and "run this with sudo" in done.stderr


def test_a_refusal_that_counts_as_success_is_a_refusal(machine):
    """nvidia-smi ends with 0 where a GPU does not support what was asked."""
    done, _ = machine("base", refuses=["--lock-memory-clocks"])
    assert done.returncode == 1 and "not supported" in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clocks.default_applications.graphics": "[N/A]"}, "give a number of MHz"),
        ({"clocks.max.mem": "[N/A]"}, "nothing was locked"),
    ],
)
def test_what_a_gpu_does_not_say_is_not_guessed(machine, changes, words):
    done, log = machine("base", gpus={"GPU-a": H200 | changes})
    assert done.returncode == 1 and log == [] and words in done.stderr


def test_a_machine_without_gpus_has_a_code_of_its_own(machine, tmp_path):
    (tmp_path / "empty").mkdir()
    done, _ = machine("base", path=str(tmp_path / "empty"))
    assert done.returncode == 3 and "there is no nvidia-smi here" in done.stderr
    done, _ = machine("base", gpus={})
    assert done.returncode == 3 and "shows no GPU" in done.stderr
    done, log = machine("base", "--gpu", "GPU-c")
    assert done.returncode == 3 and log == [] and "GPU-a, GPU-b" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["fast"], ["-5"], ["base", "--loud"]])
def test_nonsense_is_refused(machine, arguments):
    done, log = machine(*arguments)
    assert done.returncode == 2 and log == []
