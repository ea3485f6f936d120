"""Verifying a folder and collecting what is not used, against a plain model of both."""

import math
import multiprocessing
import random
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from services.messages import digest
from services.store import Folder
from services.store.upkeep import collect, verify
from tests.services.artifacts import age, flipped, key_of, manifest, overwrite

DAY = 86400


def fill(root, ages, size=1000):
    """Artifact i was used ages[i] seconds ago; all share one file, each has one of its own."""
    store = Folder(root)
    for i, seconds in enumerate(ages):
        store.put(manifest(key_of(i)), {"own": bytes([i]) * size, "shared": b"s" * size})
        age(store.path("ac", key_of(i)), seconds)
    for name in store.every_object():
        age(store.path("cas", name), 30 * DAY)
    return store


def left(store):
    return [i for i in range(20) if store.known(key_of(i)) is not None]


def total(store):
    return sum(
        path.stat().st_size for part in ("ac", "cas") for path in (store.root / part).iterdir()
    )


def test_what_was_not_used_for_long_goes_with_its_files(tmp_path):
    store = fill(tmp_path, [9 * DAY, 2 * DAY, 5 * DAY])
    gone = collect(store, math.inf, 4 * DAY)
    assert sorted(gone.artifacts) == sorted([key_of(0), key_of(2)]) and left(store) == [1]
    assert sorted(gone.objects) == sorted(digest(bytes([i]) * 1000) for i in (0, 2))
    assert store.get_manifest(key_of(1)) is not None and gone.left == total(store)


@pytest.mark.parametrize("kept", range(5))
def test_the_least_recently_used_go_first_until_the_rest_fits(tmp_path, kept):
    order = [3, 0, 4, 1]  # from the one used last
    ages = {one: (2 + place) * DAY for place, one in enumerate(order)}
    store = fill(tmp_path, [ages[0], ages[1], 50 * DAY, ages[3], ages[4]])
    one = store.path("ac", key_of(0)).stat().st_size + 1000
    before = total(store)
    gone = collect(store, kept * one + (1000 if kept else 0), math.inf)
    assert left(store) == sorted(order[:kept])
    assert gone.left == total(store) == before - gone.bytes <= kept * one + 1000
    assert verify(store).good and not verify(store).unnamed
    collect(store, gone.left, math.inf)
    assert left(store) == sorted(order[:kept])


def test_reading_is_using_and_looking_is_not(tmp_path):
    store = fill(tmp_path, [9 * DAY, 8 * DAY, 7 * DAY])
    verify(store)
    assert store.known(key_of(1)) and store.get_manifest(key_of(0))
    gone = collect(store, math.inf, DAY)
    assert left(store) == [0] and len(gone.artifacts) == 2


def test_what_is_being_written_stays(tmp_path):
    """Files come before their manifest: what has no name yet may be about to get one."""
    store = fill(tmp_path, [9 * DAY])
    fresh, again = digest(b"fresh"), digest(b"again")
    for content, name in ((b"fresh", fresh), (b"again", again)):
        store.set("cas", name, content)
        age(store.path("cas", name), 2 * DAY if name == again else 0)
    store.set("cas", again, b"again")  # a second upload finds it there, and needs it all the same
    collect(store, 0, 0)
    assert sorted(store.every_object()) == sorted([fresh, again]) and left(store) == []
    collect(store, 0, 0, grace=-1)
    assert list(store.every_object()) == []


def test_a_dry_run_tells_what_a_real_one_does(tmp_path):
    store = fill(tmp_path, [9 * DAY, 2 * DAY, 5 * DAY])
    (store.root / "quarantine" / "old").touch()
    age(store.root / "quarantine" / "old", 9 * DAY)
    before = sorted(tmp_path.rglob("*"))
    told = collect(store, math.inf, 4 * DAY, dry=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert collect(store, math.inf, 4 * DAY) == told
    assert not list((store.root / "quarantine").iterdir())


def test_without_limits_only_files_without_a_name_go(tmp_path):
    store = fill(tmp_path, [900 * DAY, 0])
    store.set("cas", digest(b"x"), b"x")
    age(store.path("cas", digest(b"x")), 2 * DAY)
    assert collect(store, math.inf, math.inf).objects == [digest(b"x")]
    assert left(store) == [0, 1]


def test_what_a_kept_manifest_names_is_never_removed(tmp_path):
    """Random artifacts that share files at random, against the definition."""
    rng = random.Random(1)
    for trial in range(10):
        store = Folder(tmp_path / str(trial))
        contents = [rng.randbytes(rng.randrange(1, 3000)) for _ in range(8)]
        for i in range(8):
            picked = rng.sample(contents, rng.randrange(4))
            store.put(manifest(key_of(i)), {f"f{j}": one for j, one in enumerate(picked)})
            age(store.path("ac", key_of(i)), rng.randrange(1, 9) * DAY + i)
        for name in store.every_object():
            age(store.path("cas", name), DAY)
        used = {i: store.path("ac", key_of(i)).stat().st_mtime for i in range(8)}
        max_bytes = rng.randrange(20_000)
        max_age = rng.choice([math.inf, rng.randrange(1, 9) * DAY])
        collect(store, max_bytes, max_age)
        kept = left(store)
        assert total(store) <= max_bytes and verify(store).good and not verify(store).unnamed
        assert all(used[i] >= time.time() - max_age for i in kept)
        assert all(used[i] > used[j] for i in kept for j in range(8) if j not in kept)


def test_collecting_and_writing_wait_for_each_other(tmp_path):
    store, other = Folder(tmp_path), Folder(tmp_path)
    with ThreadPoolExecutor(1) as threads:
        for exclusive, work in (
            (True, lambda: other.put(manifest(), {"a": b"a"})),
            (False, lambda: collect(other, 0, 0)),
        ):
            with store.locked(exclusive=exclusive):
                working = threads.submit(work)
                assert not wait([working], 0.3).done
            assert working.result(30)


def put_for_ever(root, number):
    store = Folder(root)
    for turn in range(40):
        key = key_of(f"{number} {turn}")
        store.put(manifest(key), {"own": f"{number} {turn}".encode(), "shared": b"shared"})
        assert store.get_manifest(key) is not None


def test_collecting_while_others_write_loses_nothing(tmp_path):
    store = Folder(tmp_path)
    # what no manifest names is held by its age alone, which is made up below
    store.put(manifest(key_of(999)), {"shared": b"shared"})
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=put_for_ever, args=(tmp_path, n)) for n in range(2)]
    for writer in writers:
        writer.start()
    collections = 0
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / "cas" / digest(b"shared")).exists():
            age(tmp_path / "cas" / digest(b"shared"), DAY)  # as if uploaded long ago
        collect(store, math.inf, math.inf)
        collections += 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0] and collections > 5
    assert verify(store).good and len(verify(store).artifacts) == 81


def test_verification_finds_each_kind_of_fault(tmp_path):
    store = fill(tmp_path, [0, 0, 0, 0])
    assert verify(store).good and len(verify(store).artifacts) == 4
    assert len(verify(store).objects) == 5
    paths = [store.path("cas", digest(bytes([1]) * 1000)), store.path("ac", key_of(2))]
    for path in paths:
        overwrite(path, flipped(path.read_bytes(), 80))
    store.path("cas", digest(bytes([3]) * 1000)).unlink()
    found = verify(store)
    assert not found.good and sorted(found.damaged) == sorted(
        str(path.relative_to(tmp_path)) for path in paths
    )
    assert found.artifacts == [key_of(0)]
    assert found.incomplete == sorted([key_of(1), key_of(3)])
    assert found.unnamed == [digest(bytes([2]) * 1000)]
    assert len(list((tmp_path / "quarantine").iterdir())) == 2
    again = verify(store)
    assert not again.damaged and again.incomplete == found.incomplete
