"""Bundles: what goes in comes out, and a file from elsewhere is believed in nothing."""

import io
import json
import tarfile

import pytest

from services.messages import digest
from services.store import Damaged, Folder, seal
from services.store.bundle import BadBundle, contents, export, load
from services.store.upkeep import verify
from tests.services.artifacts import flipped, key_of, manifest, overwrite

LIMIT = 1 << 20


@pytest.fixture
def store(tmp_path):
    store = Folder(tmp_path / "store")
    for i in range(3):
        store.put(manifest(key_of(i)), {"own": bytes([i]) * 9, "shared": b"shared"})
    store.put(manifest(key_of("check")), {})
    return store


@pytest.fixture
def path(store, tmp_path):
    export(store, store.every_key(), tmp_path / "all.tar", "abc")
    return tmp_path / "all.tar"


def tree(store):
    return {
        path.relative_to(store.root): path.read_bytes()
        for part in ("ac", "cas")
        for path in (store.root / part).iterdir()
    }


def test_what_was_exported_is_imported(store, path, tmp_path):
    other = Folder(tmp_path / "other")
    assert load(path, other, LIMIT) == sorted(store.every_key())
    assert tree(other) == tree(store) and verify(other).good


def test_a_bundle_is_a_tar_that_begins_with_its_index(store, path):
    with tarfile.open(path) as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json"))
        told = {name: digest(tar.extractfile(name).read()) for name in names[1:]}
    assert names[0] == "index.json" and index["made_by"] == "abc"
    assert [name.split("/")[0] for name in names[1:]] == ["cas"] * 4 + ["ac"] * 4
    assert {name: piece["sha256"] for name, piece in index["pieces"].items()} == told


def test_equal_artifacts_make_equal_bundles(store, path, tmp_path):
    load(path, Folder(tmp_path / "other"), LIMIT)
    again = tmp_path / "again.tar"
    export(Folder(tmp_path / "other"), reversed([*store.every_key()]), again, "abc")
    assert again.read_bytes() == path.read_bytes()


def test_what_is_chosen_goes_and_what_is_not_whole_does_not(store, tmp_path):
    overwrite(store.path("cas", digest(bytes([1]) * 9)), b"damaged")
    path, other = tmp_path / "some.tar", Folder(tmp_path / "other")
    keys = [key_of(0), key_of(1), key_of("none")]
    assert export(store, keys, path, "abc") == [key_of(0)] == load(path, other, LIMIT)
    assert verify(other).good and len(verify(other).objects) == 2


def test_a_file_lost_while_exporting_is_told(store, tmp_path, monkeypatch):
    """Damage between the first look and the second: no bundle is left."""
    look, seen = store.look, []

    def second(space, name):
        seen.append((space, name))
        return None if seen.count((space, name)) > 3 else look(space, name)

    monkeypatch.setattr(store, "look", second)
    with pytest.raises(Damaged, match="export again"):
        export(store, store.every_key(), tmp_path / "a.tar", "abc")
    assert [one.name for one in tmp_path.iterdir()] == ["store"]


def outcome(content):
    """What a bundle holds, or that it is none."""
    try:
        return [*contents(io.BytesIO(content), LIMIT)]
    except BadBundle:
        return None


def test_no_flipped_byte_of_a_bundle_passes_for_something_else(store, tmp_path):
    """Bytes that mean nothing (padding, owners) may change; no content ever does."""
    path = tmp_path / "one.tar"
    export(store, [key_of(0)], path, "abc")
    whole = path.read_bytes()
    right = outcome(whole)
    assert len(right) == 3
    meant = 0
    for at in range(len(whole)):
        found = outcome(flipped(whole, at))
        assert found in (None, right), at
        meant += found is None
    assert meant > sum(len(piece.content) for piece in right)


def test_a_bundle_that_was_cut_imports_nothing(path, tmp_path):
    whole, other = path.read_bytes(), Folder(tmp_path / "other")
    end = len(whole.rstrip(b"\0"))
    for at in [*range(0, end, 97), end - 1]:
        path.write_bytes(whole[:at])
        with pytest.raises(BadBundle):
            load(path, other, LIMIT)
    assert tree(other) == {}


def index_of(pieces):
    told = {name: {"size": len(content), "sha256": digest(content)} for name, content in pieces}
    return json.dumps({"version": 1, "pieces": told}).encode()


def tar(pieces, index=None, edit=lambda member: None):
    """A bundle of these pieces, with an index that agrees unless another one is given."""
    packed = io.BytesIO()
    first = ("index.json", index_of(pieces) if index is None else index)
    with tarfile.open(fileobj=packed, mode="w") as made:
        for name, content in [first, *pieces]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            edit(member)
            made.addfile(member, io.BytesIO(content))
    return packed.getvalue()


BYTES = (f"cas/{digest(b'bytes')}", b"bytes")
NAMES_BYTES = (f"ac/{key_of(0)}", seal(manifest(key_of(0), files={"a": digest(b"bytes")})))
OUTSIDE = (f"ac/{key_of(0)}", seal(manifest(key_of(0), files={"../a": digest(b"bytes")})))
# Manifests of one key, of equal length.
ONE, TWO = ((f"ac/{key_of(2)}", seal(manifest(key_of(2), built_by=who))) for who in ("one", "two"))
NAMES_MANIFEST = (f"ac/{key_of(1)}", seal(manifest(key_of(1), files={"a": key_of(0)})))


def link(member):
    if member.name != "index.json":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no tar"),
        (b"no tar at all" * 100, "no tar"),
        (tar([], index=b"{}"), "pieces: Field required"),
        (tar([], index=b'{"version": 2, "pieces": {}}'), "version"),
        (tar([], index=b'{"pieces": {"../etc/passwd": {"size": 0, "sha256": ""}}}'), "pieces"),
        (tar([BYTES], index=b'{"pieces": {}}'), "not in the index"),
        (tar([BYTES, BYTES]), "second time"),
        (tar([BYTES], edit=link), "no file of 5 bytes"),
        (tar([(f"cas/{key_of(1)}", b"bytes")]), "have the digest"),
        (tar([(f"ac/{key_of(1)}", NAMES_BYTES[1]), BYTES]), "is the manifest of"),
        (tar([(f"ac/{key_of(1)}", b"{}")]), "no manifest"),
        (tar([NAMES_BYTES, BYTES]), "do not stand before it"),
        (tar([NAMES_BYTES]), "do not stand before it"),
        (tar([BYTES, NAMES_BYTES, NAMES_MANIFEST]), "do not stand before it"),
        (tar([BYTES, OUTSIDE]), "no manifest"),
        (tar([ONE], index=index_of([TWO])), "not what the index says"),
        (tar([(f"cas/{digest(bytes(LIMIT + 1))}", bytes(LIMIT + 1))]), "at most 1048576"),
    ],
)
def test_a_bundle_that_lies_imports_nothing_and_says_why(tmp_path, content, words):
    (tmp_path / "a.tar").write_bytes(content)
    other = Folder(tmp_path / "other")
    with pytest.raises(BadBundle, match=words):
        load(tmp_path / "a.tar", other, LIMIT)
    assert tree(other) == {}
    assert {one.name for one in tmp_path.iterdir()} == {"a.tar", "other"}


def test_the_right_one_among_them_is_taken(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar([BYTES, NAMES_BYTES]))
    assert load(tmp_path / "a.tar", Folder(tmp_path / "other"), LIMIT) == [key_of(0)]
