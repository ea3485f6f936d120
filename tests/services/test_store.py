import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from services.messages import KernelSpec, Manifest, digest
from services.store import Damaged, Store, write_atomic

SPEC = KernelSpec(executor="tilus", kernel="copy", parameters={"n": 1}, arch="sm_90")
KEY = digest(b"one kernel")
FILES = {"kernel.cubin": bytes(range(256)) * 64, "source.cu": b"__global__ void f() {}\n"}

WRITER = """
import sys
from pathlib import Path
from services.messages import KernelSpec, Manifest, digest
from services.store import Store
spec = KernelSpec(executor="tilus", kernel="copy", parameters={"n": 1}, arch="sm_90")
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10**9):
    files = {f"part{i}": f"{number} {i} ".encode() * 20_000 for i in range(4)}
    store.put(Manifest(key=digest(b"one kernel"), spec=spec, seconds=number), files)
"""


def manifest(key: str = KEY) -> Manifest:
    return Manifest(key=key, spec=SPEC, facts={"threads": 128}, built_at="2026-01-01T00:00:00Z")


def test_what_was_put_is_read_back(tmp_path):
    stored = Store(tmp_path).put(manifest(), FILES)
    found = Store(tmp_path).get_manifest(KEY)
    assert found == stored
    assert {name: Store(tmp_path).read(found, name) for name in FILES} == FILES


def test_an_unknown_key_is_absent(tmp_path):
    assert Store(tmp_path).get_manifest(KEY) is None


@pytest.mark.parametrize("key", ["../../etc/passwd", "A" * 64, "0" * 63, ""])
def test_only_digests_are_keys(tmp_path, key):
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        Store(tmp_path).get_manifest(key)


def test_file_names_cannot_leave_the_store(tmp_path):
    with pytest.raises(ValueError, match="cannot be called"):
        Store(tmp_path).put(manifest(), {"../kernel.cubin": b""})


@pytest.mark.parametrize("victim", [*FILES, "the manifest"])
@pytest.mark.parametrize("where", [0, 70, -1])
def test_one_flipped_byte_makes_it_absent_until_it_is_built_again(tmp_path, victim, where):
    store = Store(tmp_path)
    stored = store.put(manifest(), FILES)
    path = tmp_path / "ac" / KEY
    if victim in FILES:
        path = tmp_path / "cas" / stored.files[victim]
    content = bytearray(path.read_bytes())
    content[where if abs(where) < len(content) else 0] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)

    assert store.get_manifest(KEY) is None
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert store.put(manifest(), FILES) == store.get_manifest(KEY)


def test_reading_a_lost_object_says_so(tmp_path):
    store = Store(tmp_path)
    stored = store.put(manifest(), FILES)
    (tmp_path / "cas" / stored.files["source.cu"]).unlink()
    assert store.get_manifest(KEY) is None
    with pytest.raises(Damaged, match=r"source\.cu .* is gone: compile it again"):
        store.read(stored, "source.cu")


def test_a_killed_writer_leaves_a_whole_kernel_or_none(tmp_path):
    store, rng, seen = Store(tmp_path), random.Random(0), set()
    for _ in range(20):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.06))
            writer.send_signal(signal.SIGKILL)
        found = store.get_manifest(KEY)
        if found is not None:
            number = int(found.seconds)
            seen.add(number)
            for i in range(4):
                assert store.read(found, f"part{i}") == f"{number} {i} ".encode() * 20_000
    assert not list((tmp_path / "quarantine").iterdir())
    assert seen, "no writer lived long enough for this test to mean anything"


def put_often(root, start):
    start.wait()
    for _ in range(30):
        Store(root).put(manifest(), FILES)
        assert Store(root).get_manifest(KEY) is not None


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
    with Store(root).claim(KEY):
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
    assert waiter.is_alive() and Store(tmp_path).get_manifest(KEY) is None
    os.kill(holder.pid, signal.SIGKILL)
    waiter.join(30)
    holder.join()
    assert Store(tmp_path).get_manifest(KEY) is not None


def put_claimed(root):
    with Store(root).claim(KEY):
        Store(root).put(manifest(), FILES)


def test_sweep_removes_only_what_is_old(tmp_path):
    store = Store(tmp_path)
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
