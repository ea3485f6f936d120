"""The commands about the store, as enter.sh has them."""

import shutil
import subprocess
import sys

import pytest

from services.building import build_kernel
from services.compiler.jobs import check_kernel
from services.driver import cache
from services.executors import EXECUTORS
from services.experiments import FIGURES
from services.settings import ROOT
from services.store import Folder
from tests.services.artifacts import age, overwrite
from tests.services.fake import Fake, built, spec


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two kernels, and the check of the first."""
    monkeypatch.setenv("TILUS_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("STORE_URL", raising=False)
    store, fakes = Folder(tmp_path / "store"), {"fake": Fake("fake", tmp_path / "builds")}
    for n in range(2):
        build_kernel(spec(n=n, b_dtype=f"uint{n + 1}"), store, fakes, "abc")
    check_kernel(spec(n=0, b_dtype="uint1"), store, fakes, "abc")
    return store


KEYS = [spec(n=n, b_dtype=f"uint{n + 1}").key() for n in range(2)]


def said(capsys, *arguments):
    code = cache.main([*arguments])
    return code, *capsys.readouterr()


def test_ls_has_a_line_for_each_artifact(store, capsys):
    code, out, _ = said(capsys, "ls")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0 and len(lines) == 3
    assert lines[KEYS[1][:12]].endswith("  fake-fake-sm_90-uint2")
    assert sum("check of fake-fake-sm_90-uint1" in line for line in lines.values()) == 1
    size = sum(store.path("cas", each).stat().st_size
               for each in store.known(KEYS[0]).files.values())  # fmt: skip
    age(store.path("ac", KEYS[0]), 3 * 86400)
    assert said(capsys, "ls", KEYS[0][:5])[1].split()[1:3] == [str(size), "3.0"]


def test_show_tells_all_and_what_is_lost(store, capsys):
    code, out, _ = said(capsys, "show", KEYS[0][:8])
    assert code == 0 and out == store.known(KEYS[0]).model_dump_json(indent=2) + "\n"
    overwrite(store.path("cas", store.known(KEYS[0]).files["kernel.cubin"]), b"damaged")
    code, _, err = said(capsys, "show", KEYS[0])
    assert code == 1 and err.startswith("enter.sh: kernel.cubin is gone or was damaged")


def test_a_key_is_named_by_its_first_digits(store, capsys):
    assert said(capsys, "show", "x")[::2] == (
        1, "enter.sh: no key begins with x: see bash enter.sh ls\n",
    )  # fmt: skip
    code, _, err = said(capsys, "show", "")
    assert code == 1 and "3 keys begin with" in err


def test_verify_tells_damage_by_its_name_and_by_its_code(store, capsys):
    code, out, _ = said(capsys, "verify")
    assert code == 0 and out.startswith("3 artifacts whole, 0 not; 3 files whole, 0 of them")
    name = store.known(KEYS[0]).files["kernel.cubin"]
    overwrite(store.path("cas", name), b"damaged")
    code, out, _ = said(capsys, "verify")
    assert code == 1
    assert f"damaged     cas/{name}\nincomplete  {KEYS[0]}\n" in out
    assert "2 artifacts whole, 1 not" in out


def test_gc_keeps_to_its_limits(store, capsys):
    for key in store.every_key():
        age(store.path("ac", key), 3 * 86400)
    age(store.path("ac", KEYS[1]), 2 * 86400)
    for name in store.every_object():
        age(store.path("cas", name), 9 * 86400)
    code, out, _ = said(capsys, "gc", "--max-age", "60h", "--dry-run")
    assert code == 0 and out.startswith("2 artifacts and 1 files would go")
    assert said(capsys, "gc", "--max-age", "60h")[1].startswith("2 artifacts and 1 files went")
    assert list(store.every_key()) == [KEYS[1]] and store.get_manifest(KEYS[1])
    age(store.path("ac", KEYS[1]), 2 * 86400)
    said(capsys, "gc", "--max-bytes", "0K")
    assert not list(store.every_key()) and not list(store.every_object())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gc", "--max-bytes", "much"], "bytes such as 500M or 20G"),
        (["gc", "--max-bytes", "-1"], "bytes such as 500M or 20G"),
        (["gc", "--max-age", "30"], "a time such as 12h or 30d"),
        (["burn"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_what_makes_no_sense_has_code_2(store, capsys, arguments, words):
    with pytest.raises(SystemExit) as left:
        cache.main(arguments)
    assert left.value.code == 2 and words in capsys.readouterr().err


def test_a_bundle_travels(store, capsys, tmp_path, monkeypatch):
    file = str(tmp_path / "a.tar")
    code, out, _ = said(capsys, "export", file, KEYS[0][:9])
    assert code == 0 and out.startswith("1 artifacts, ") and out.endswith(f": {file}\n")
    monkeypatch.setenv("TILUS_STORE", str(tmp_path / "other"))
    assert said(capsys, "import", file)[:2] == (0, "1 artifacts imported\n")
    assert Folder(tmp_path / "other").get_manifest(KEYS[0]) == store.known(KEYS[0])
    code, _, err = said(capsys, "import", str(tmp_path / "store/ac" / KEYS[0]))
    assert code == 1 and "this is no tar" in err
    assert said(capsys, "import", str(tmp_path / "none"))[0] == 1


def test_what_is_not_whole_is_not_exported_and_told(store, capsys, tmp_path):
    overwrite(store.path("cas", store.known(KEYS[0]).files["kernel.cubin"]), b"damaged")
    code, out, err = said(capsys, "export", str(tmp_path / "a.tar"))
    assert code == 1 and out.startswith("2 artifacts, ")
    assert err == f"enter.sh: {KEYS[0][:12]} is not whole and was left out\n"


def test_enter_sh_hands_commands_on(store, tmp_path):
    """With a Python that stands for the one that run.sh sets up; paths are the caller's."""
    home = tmp_path / "project"
    python = home / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    shutil.copy(ROOT / "enter.sh", home)
    command = ["bash", str(home / "enter.sh")]
    missing = subprocess.run([*command, "ls"], capture_output=True, text=True, check=False)
    assert missing.returncode == 3 and "run.sh comes first" in missing.stderr
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for arguments in (["export", "here.tar"], ["verify"], ["-h"]):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "here.tar").exists()
    assert all(verb in done.stdout for verb in ("ls", "show", "verify", "gc", "export", "import"))


def test_what_a_figure_would_try_is_compiled_ahead_once(store, capsys, monkeypatch, tmp_path):
    fake = Fake("ladder", tmp_path / "ahead")
    monkeypatch.setitem(EXECUTORS, "ladder", fake)
    asked = ("compile", "--executors", "ladder", "--dtypes", "u4")
    code, out, _ = said(capsys, *asked)
    shapes = {c.workload for c in FIGURES[9].cells if c.workload.b_dtype == "uint4"}
    wanted = {spec.key() for shape in shapes for spec in fake.candidates(shape, "sm_90")}
    assert code == 0 and {line.split()[0] for line in out.splitlines()} == wanted
    assert all(Folder(store.root).get_manifest(key) for key in wanted)
    assert said(capsys, *asked) == (0, "", "") and len(built(fake.log)) == len(wanted)


def test_what_cannot_be_compiled_ahead_has_a_line_and_the_rest_goes_on(
    store, capsys, monkeypatch, home
):
    code, out, _ = said(capsys, "compile", "--executors", "ladder", "--dtypes", "u1")
    lines = out.splitlines()
    assert code == 1 and len(lines) > 6
    assert all(line.startswith("failed  ladder ") for line in lines)
    assert "bitblas is not installed here: bash run.sh peers" in lines[0]
    code, _, err = said(capsys, "compile", "--figure", "12")
    assert code == 1 and "of whole models" in err
