import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from services.settings import ROOT
from services.store import Damaged, Folder, write_atomic
from tests.services.artifacts import FILES, KEY, flipped, key_of, manifest, overwrite

KILLS = 200
# Starts a writer, lets it live for the time of some puts, kills it, and waits for an answer.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from services.store import Folder
from tests.services.artifacts import manifest
store, rng = Folder(Path(sys.argv[1])), random.Random(0)
def put(number):
    files = {f"part{i}": f"{number} {i} ".encode() * 10_000 for i in range(2)}
    store.put(manifest(seconds=number), files)
started = time.monotonic()
for number in range(5):
    put(number)
one_put = (time.monotonic() - started) / 5
for kill in range(int(sys.argv[2])):
    writer = os.fork()
    while writer == 0:
        number += 1
        put(1000 * kill + number)
    time.sleep(rng.uniform(0, 3 * one_put))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    print(kill, flush=True)
    sys.stdin.readline()
"""


def test_what_was_put_is_read_back(tmp_path):
    stored = Folder(tmp_path).put(manifest(), FILES)
    found = Folder(tmp_path).get_manifest(KEY)
    assert found == stored
    assert {name: Folder(tmp_path).read(found, name) for name in FILES} == FILES


def test_an_unknown_key_is_absent(tmp_path):
    assert Folder(tmp_path).get_manifest(KEY) is None


@pytest.mark.parametrize("key", ["../../etc/passwd", "A" * 64, "0" * 63, ""])
def test_only_digests_are_keys(tmp_path, key):
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        Folder(tmp_path).get_manifest(key)


def test_file_names_cannot_leave_the_store(tmp_path):
    with pytest.raises(ValueError, match="cannot be called"):
        Folder(tmp_path).put(manifest(), {"../kernel.cubin": b""})


@pytest.mark.promise(6)
@pytest.mark.parametrize("victim", [*FILES, "the manifest"])
@pytest.mark.parametrize("where", [0, 70, -1])
def test_one_flipped_byte_makes_it_absent_until_it_is_built_again(tmp_path, victim, where):
    store = Folder(tmp_path)
    stored = store.put(manifest(), FILES)
    path = tmp_path / "ac" / KEY
    if victim in FILES:
        path = tmp_path / "cas" / stored.files[victim]
    overwrite(path, flipped(path.read_bytes(), where % path.stat().st_size))

    assert store.get_manifest(KEY) is None
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert store.put(manifest(), FILES) == store.get_manifest(KEY)


@pytest.mark.promise(6)
def test_every_byte_of_an_artifact_counts(tmp_path, shown):
    """Each byte of a small one, changed, lost, and one more behind it."""
    store = Folder(tmp_path)
    stored = store.put(manifest(), {"a.cu": b"__global__ void f() {}", "empty": b""})
    paths = [tmp_path / "ac" / KEY, *(tmp_path / "cas" / name for name in stored.files.values())]
    tried = 0
    for path in paths:
        whole = path.read_bytes()
        wrong = [flipped(whole, at) for at in range(len(whole))]
        wrong += [whole[:at] for at in range(len(whole))] + [whole + b"\0", whole + b"\n"]
        for content in wrong:
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            assert store.get_manifest(KEY) is None, (path, content)
            assert not path.exists()
        path.write_bytes(whole)
        assert store.get_manifest(KEY) == stored
        tried += len(wrong)
    shown("changes of one artifact, byte by byte", tried)
    assert tried > 900 and len(list((tmp_path / "quarantine").iterdir())) == tried


def test_a_manifest_under_another_key_is_not_its_manifest(tmp_path):
    store = Folder(tmp_path)
    store.put(manifest(), FILES)
    (tmp_path / "ac" / KEY).rename(tmp_path / "ac" / key_of(1))
    assert store.get_manifest(key_of(1)) is None and store.get_manifest(KEY) is None


def test_bytes_do_not_get_a_name_that_is_not_theirs(tmp_path):
    store = Folder(tmp_path)
    for space in ("ac", "cas"):
        with pytest.raises(ValueError, match="digest"):
            store.set(space, KEY, b"bytes")
        assert not list((tmp_path / space).iterdir())


def test_what_a_writer_repaired_meanwhile_is_not_set_aside(tmp_path, monkeypatch):
    """A reader sees damage; before it acts, another process writes the right bytes."""
    store = Folder(tmp_path)
    stored = store.put(manifest(), FILES)
    name = stored.files["source.cu"]
    overwrite(tmp_path / "cas" / name, b"damaged")
    aside = store._set_aside

    def late(space, which):
        overwrite(tmp_path / "cas" / name, FILES["source.cu"])
        aside(space, which)

    monkeypatch.setattr(store, "_set_aside", late)
    assert store.look("cas", name) is None
    assert store.look("cas", name) == FILES["source.cu"]
    assert not list((tmp_path / "quarantine").iterdir())


def test_reading_a_lost_object_says_so(tmp_path):
    store = Folder(tmp_path)
    stored = store.put(manifest(), FILES)
    (tmp_path / "cas" / stored.files["source.cu"]).unlink()
    assert store.get_manifest(KEY) is None
    with pytest.raises(Damaged, match=r"source\.cu .* is gone or was damaged: compile it again"):
        store.read(stored, "source.cu")


@pytest.mark.promise(7)
def test_a_killed_writer_leaves_a_whole_kernel_or_none(tmp_path, shown):
    store, seen, torn = Folder(tmp_path), set(), 0
    command = [sys.executable, "-c", KILLER, str(tmp_path), str(KILLS)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killer:
        for kill in range(KILLS):
            assert killer.stdout.readline() == f"{kill}\n"
            torn += bool(list((tmp_path / "tmp").iterdir()))
            for path in (tmp_path / "tmp").iterdir():
                path.unlink()
            found = store.get_manifest(KEY)
            if found is not None:
                number = int(found.seconds)
                seen.add(number)
                for i in range(2):
                    assert store.read(found, f"part{i}") == f"{number} {i} ".encode() * 10_000
            killer.stdin.write("\n")
            killer.stdin.flush()
    shown("writers killed", KILLS)
    shown("of them in the middle of a file", torn)
    shown("artifacts torn", len(list((tmp_path / "quarantine").iterdir())))
    assert not list((tmp_path / "quarantine").iterdir())
    assert len(seen) > 1 and torn > 5, "the kills came at no moment that matters"


def test_a_writer_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        Folder(tmp_path).put(manifest(), FILES)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["collect"]


def put_often(root, start):
    start.wait()
    for _ in range(30):
        Folder(root).put(manifest(), FILES)
        assert Folder(root).get_manifest(KEY) is not None


def test_writers_of_one_key_do_not_disturb_each_other(tmp_path):
    forks = multiprocessing.get_context("spawn")
    start = forks.Barrier(4)
    writers = [forks.Process(target=put_often, args=(tmp_path, start)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert not list((tmp_path / "tmp").iterdir())


def hold(root, held):
    with Folder(root).claim(KEY):
        held.set()
        time.sleep(60)


def test_a_claim_is_exclusive_and_ends_with_its_holder(tmp_path):
    forks = multiprocessing.get_context("spawn")
    held = forks.Event()
    holder = forks.Process(target=hold, args=(tmp_path, held))
    holder.start()
    assert held.wait(30)
    waiter = forks.Process(target=put_claimed, args=(tmp_path,))
    waiter.start()
    waiter.join(1.5)
    assert waiter.is_alive() and Folder(tmp_path).get_manifest(KEY) is None
    os.kill(holder.pid, signal.SIGKILL)
    waiter.join(30)
    holder.join()
    assert Folder(tmp_path).get_manifest(KEY) is not None


def put_claimed(root):
    with Folder(root).claim(KEY):
        Folder(root).put(manifest(), FILES)


def test_sweep_removes_only_what_is_old(tmp_path):
    store = Folder(tmp_path)
    old, new = tmp_path / "tmp" / "old", tmp_path / "tmp" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.sweep()
    assert list((tmp_path / "tmp").iterdir()) == [new]


def test_atomic_replacement_keeps_the_folder_clean(tmp_path):
    for content in (b"first", b"second"):
        write_atomic(tmp_path / "runs" / "a.json", content)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.json"]
    assert (tmp_path / "runs" / "a.json").read_bytes() == b"second"
