import shutil
from pathlib import Path

import pytest

from services import building
from services.building import TOLERANCE, build_kernel, check_key
from services.compiler.jobs import WrongKernel, check_kernel
from services.executors import EXECUTORS
from services.experiments import FIGURES
from services.store import Folder
from tests.services.fake import Fake, built, spec
from tilus import compiler


@pytest.fixture
def house(tmp_path):
    return Folder(tmp_path / "store"), {"fake": Fake("fake", tmp_path / "builds")}


def test_the_manifest_says_what_was_built_by_whom_and_from_what(house):
    store, executors = house
    one = spec(n=1)
    found = build_kernel(one, store, executors, commit="abc")
    assert found == store.get_manifest(one.key())
    assert (found.spec, found.built_by, found.versions) == (one, "abc", {"fake": "1"})
    assert found.facts["entry"] == "fake" and set(found.files) == {"kernel.cubin", "source.cu"}


def test_the_manifest_says_what_the_compile_used(house):
    """Of the processor this compile alone, also what its children did; memory in MiB."""
    store, executors = house
    burnt = build_kernel(spec(burn="0.3"), store, executors, commit="abc")
    idle = build_kernel(spec(milliseconds=300), store, executors, commit="abc")
    assert 0.3 <= burnt.cpu_seconds < 3 and idle.cpu_seconds < 0.3 <= idle.seconds
    assert 10 < idle.peak_mib < 1 << 14


def test_our_kernels_keep_what_the_compiler_said():
    ours = EXECUTORS["tilus"]
    workload = next(cell.workload for cell in FIGURES[9].cells if cell.executor == "tilus")
    [one, *_] = ours.candidates(workload, "sm_90")
    found = ours.build(one)
    assert f"Used {found.facts['registers']} registers" in found.files["compile.log"].decode()


def test_a_damaged_kernel_is_built_again(house, tmp_path):
    store, executors = house
    first = build_kernel(spec(n=2), store, executors, commit="abc")
    path = tmp_path / "store" / "cas" / first.files["kernel.cubin"]
    path.chmod(0o644)
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    again = build_kernel(spec(n=2), store, executors, commit="abc")
    assert again.files == first.files and len(built(tmp_path / "builds")) == 2
    assert store.get_manifest(first.key) == again


def test_a_check_is_kept_with_what_it_found(house):
    store, executors = house
    one = spec(error="0.0005")
    found = check_kernel(one, store, executors, commit="abc")
    assert found.facts == {"relative_error": 5e-4} and found.seconds == 0.5
    assert store.get_manifest(check_key(one.key())) == found


@pytest.mark.parametrize("error", [str(TOLERANCE), "0.5", "nan", "inf"])
def test_a_wrong_kernel_has_no_finding(house, error):
    store, executors = house
    one = spec(error=error)
    with pytest.raises(WrongKernel, match=r"relative error .* on the CPU"):
        check_kernel(one, store, executors, commit="abc")
    assert store.get_manifest(check_key(one.key())) is None


def test_a_finding_is_of_the_kernel_the_check_and_the_host_that_ran_it(
    house, monkeypatch, tmp_path
):
    """Another text of the host prelude, or of anything else that checks, is another check."""
    kernel = spec(n=1).key()
    names = {check_key(kernel), check_key(spec(n=2).key())}
    with monkeypatch.context() as other:
        other.setattr(building, "TOLERANCE", 1e-3)
        names.add(check_key(kernel))
    for name in ("prelude/host/tilus.cuh", "kernels/problem.py", "dtypes.py"):
        copied = shutil.copytree(Path(compiler.__file__).parent, tmp_path / name / "tilus")
        with (copied / name).open("a") as file:
            file.write("\n")
        with monkeypatch.context() as other:
            digest = compiler.package_digest.__wrapped__
            other.setattr(compiler, "__file__", str(copied / "compiler.py"))
            other.setattr(building, "package_digest", digest)
            names.add(check_key(kernel))
    assert len(names) == 6
    assert check_key(kernel) == check_key(kernel) in names
