import pytest

from services.compiler.jobs import TOLERANCE, WrongKernel, build_kernel, check_kernel
from services.store import Folder, check_key
from tests.services.fake import Fake, built, spec


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
