import json
import os
import subprocess
import sys

from services.building import build_kernel
from services.compiler.jobs import check_kernel
from services.driver.shelf import lay_out
from services.settings import ROOT
from services.store import Folder
from tests.services.fake import Fake, spec


def test_every_kernel_is_a_folder_and_every_check_is_not(tmp_path):
    store, executors = Folder(tmp_path / "store"), {"fake": Fake("fake", tmp_path / "builds")}
    one, two = spec(b_dtype="uint4"), spec(b_dtype="uint4", n=1)
    for kernel in (one, two):
        build_kernel(kernel, store, executors, "abc")
        check_kernel(kernel, store, executors, "abc")
    for _ in range(2):
        assert lay_out(store, tmp_path / "shelf") == 2
    [folder] = (tmp_path / "shelf").iterdir()
    assert folder.name == "fake-fake-sm_90-uint4"
    files = {path.name for path in (folder / one.key()[:12]).iterdir()}
    assert files == {"kernel.cubin", "source.cu", "manifest.json"}
    manifest = json.loads((folder / two.key()[:12] / "manifest.json").read_text())
    assert manifest["spec"]["parameters"] == two.parameters


def test_a_damaged_kernel_is_left_out(tmp_path):
    store, executors = Folder(tmp_path / "store"), {"fake": Fake("fake", tmp_path / "builds")}
    stored = build_kernel(spec(n=1), store, executors, "abc")
    path = tmp_path / "store" / "cas" / stored.files["source.cu"]
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert lay_out(store, tmp_path / "shelf") == 0


def test_the_command_says_where_the_shelf_is(tmp_path):
    folders = {"TILUS_STATE": str(tmp_path / "state"), "TILUS_STORE": str(tmp_path / "store")}
    command = [sys.executable, "-m", "services.driver.shelf"]
    environment = os.environ | folders
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path / 'state' / 'shelf'}\n"
    assert (tmp_path / "state" / "shelf").is_dir()
