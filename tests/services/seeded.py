"""Seeded bugs of the services: `python -m tests.services.seeded`, as in tests.tilus.seeded."""

import sys

from tests.tilus.seeded import Bug, main

BASE, FOLDER = "services/store/base.py", "services/store/folder.py"
REMOTE, CACHED = "services/store/remote.py", "services/store/cached.py"
UPKEEP, BUNDLE = "services/store/upkeep.py", "services/store/bundle.py"
PEER, PUBLIC = "services/executors/peer.py", "services/executors/public_tilus.py"
HUMMING, TABLE = "services/executors/humming.py", "services/driver/table.py"
SELECTION = "services/selection.py"
PEER_TESTS = ("tests/services/test_peers.py",)
WEIGHT_TESTS = ("tests/services/test_peer_weights.py",)  # need PyTorch
BENCH_TESTS = ("tests/services/test_bench.py",)
ARTIFACTS, QUEUE = "services/api/artifacts.py", "services/queue.py"
STORE_TESTS = ("tests/services/test_store.py",)
REMOTE_TESTS = ("tests/services/test_store_remote.py",)
UPKEEP_TESTS = ("tests/services/test_store_upkeep.py",)
BUNDLE_TESTS = ("tests/services/test_store_bundle.py",)
COMPILER_TESTS, LEDGER_TESTS = (
    ("tests/services/test_compiler.py",),
    ("tests/services/test_ledger.py",),
)
WORKER, RUNNER = "services/worker.py", "services/runner/jobs.py"
DRAIN_TESTS, HEALTH_TESTS = ("tests/services/test_drain.py",), ("tests/services/test_health.py",)
UNFIT_TESTS = (
    "tests/services/test_health.py::test_a_runner_whose_gpu_turns_unfit_stops_and_its_work_waits",
)
STANDING_TESTS = ("tests/services/test_standing.py",)
CLOCKS, CLOCKS_TESTS = "scripts/lock-gpu-clocks.py", ("tests/test_lock_gpu_clocks.py",)
# Puts a manifest before its files.
FILES_FIRST = """        for name, content in files.items():
            self.set("cas", digests[name], content)
"""
LAST = """        self.set("ac", stored.key, seal(stored))
        return stored
"""
BEHIND = "        self.behind.set(space, name, content)\n"
HERE = "        self.here.set(space, name, content)\n\n    def get_manifest"

# fmt: off
BUGS = [
    Bug(BASE, "if found == name else f\"these", "if found else f\"these",
        "an object need not have its digest", STORE_TESTS),
    Bug(BASE, "if digest(text).encode() != expected:", "if not expected:",
        "a manifest need not have its digest", STORE_TESTS),
    Bug(BASE, "if manifest.key == name else", "if manifest else",
        "a manifest may stand under any key", STORE_TESTS),
    Bug(BASE, FILES_FIRST, """        self.set("ac", manifest.key, seal(
            manifest.model_copy(update={"files": digests})))
""" + FILES_FIRST,
        "the manifest comes before its files", (*STORE_TESTS, *REMOTE_TESTS)),
    Bug(BASE, LAST, "        return stored\n", "the manifest never comes", STORE_TESTS),
    Bug(FOLDER, """with replacing(path, by=self.root / "tmp", mode=0o444) as file:""",
        """with path.open("wb") as file:""",
        "a file has its name before it is whole", STORE_TESTS),
    Bug(FOLDER, "if fault(space, name, aside.read_bytes()) is None:", "if False:",
        "what was repaired meanwhile is set aside", STORE_TESTS),
    Bug(FOLDER, "temporary.unlink(missing_ok=True)\n        raise", "raise",
        "a writer that fails leaves its file", STORE_TESTS),
    Bug(FOLDER, "        self._set_aside(space, name)\n        return None", "        return None",
        "what is damaged stays where it is", STORE_TESTS),
    Bug(FOLDER, "            _touch(self.path(space, name))", "            pass",
        "reading is not using", UPKEEP_TESTS),
    Bug(FOLDER, "                os.utime(path)\n", "                pass\n",
        "an object uploaded again may be collected before its manifest comes", UPKEEP_TESTS),
    Bug(FOLDER, "fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH", "fcntl.LOCK_SH",
        "collecting goes on while others write", UPKEEP_TESTS),
    Bug(REMOTE, "        if fault(space, name, answer.content) is None:\n", "        if True:\n",
        "what a far end sends is believed", REMOTE_TESTS),
    Bug(REMOTE, "if answer.status != httpx.codes.OK:", "if answer.status >= 500:",
        "a refusal is taken for content", REMOTE_TESTS),
    Bug(REMOTE, "ABSENT = frozenset({", "ABSENT = frozenset({httpx.codes.FORBIDDEN, ",
        "a refusal is taken for absence", REMOTE_TESTS),
    Bug(REMOTE, "if not answer.passing or wait is None:", "if True:",
        "a busy far end is not asked again", REMOTE_TESTS),
    Bug(REMOTE, "if len(body) > self._limit:", "if False:",
        "an answer may have any length", REMOTE_TESTS),
    Bug(REMOTE, ".copy_with(userinfo=b\"\")", "", "a password is told", REMOTE_TESTS),
    Bug(CACHED, BEHIND + HERE, HERE, "what is put stays here", REMOTE_TESTS),
    Bug(CACHED, BEHIND + HERE, HERE.replace("\n\n", f"\n{BEHIND}\n"),
        "an artifact that could not be shared counts as built", REMOTE_TESTS),
    Bug(CACHED, "if self.behind.get_manifest(manifest.key) is None:",
        "if self.behind.manifest(manifest.key) is None:",
        "a lost file is not given back", REMOTE_TESTS),
    Bug(CACHED, "        return self.here.put(found, files)", "        return found",
        "what was read does not stay", REMOTE_TESTS),
    Bug(UPKEEP, "sorted(_entries(folder), reverse=True)", "sorted(_entries(folder))",
        "what was used last goes first", UPKEEP_TESTS),
    Bug(UPKEEP, "            held |= new\n", "            held = new\n",
        "files of kept artifacts are removed", UPKEEP_TESTS),
    Bug(UPKEEP, "if stat.st_mtime > now - grace}", "if stat.st_mtime > now + grace}",
        "what is being uploaded is removed", UPKEEP_TESTS),
    Bug(UPKEEP, "entry.objects & sizes.keys() - held", "entry.objects & sizes.keys()",
        "a shared file is counted for each artifact", UPKEEP_TESTS),
    Bug(UPKEEP, "        if not dry:", "        if True:", "a dry run removes", UPKEEP_TESTS),
    Bug(UPKEEP, "if names <= whole]", "if names]",
        "what lacks a file counts as whole", UPKEEP_TESTS),
    Bug(BUNDLE, "        if digest(content) != piece.sha256:", "        if False:",
        "content need not be as the index says", BUNDLE_TESTS),
    Bug(BUNDLE, "member.isreg() and member.size == size", "member.size == size",
        "links are followed", BUNDLE_TESTS),
    Bug(BUNDLE, "    if awaited:\n", "    if False:\n",
        "a bundle may lack its end", BUNDLE_TESTS),
    Bug(BUNDLE, "        for _ in contents(file, limit):\n            pass\n", "",
        "half of a bad bundle is imported", BUNDLE_TESTS),
    Bug(BUNDLE, "if found.space == \"cas\":", "if True:",
        "a manifest counts as a file", BUNDLE_TESTS),
    Bug(BUNDLE, "for key in sorted(sealed):\n", "for key in sealed:\n",
        "the order of the keys decides a bundle's bytes", BUNDLE_TESTS),
    Bug(BUNDLE, "if piece.size > limit:", "if False:",
        "a file of a bundle may have any size", BUNDLE_TESTS),
    Bug(ARTIFACTS, "    if absent:\n", "    if False:\n",
        "a manifest is taken without its files", REMOTE_TESTS),
    Bug(ARTIFACTS, "    why = fault(space, name, content)\n", "    why = None\n",
        "anything is taken", REMOTE_TESTS),
    Bug(ARTIFACTS, "if not token and not _is_here(request):", "if False:",
        "anybody writes", REMOTE_TESTS),
    Bug(ARTIFACTS, "settings.artifact_limit if is_artifact", "settings.body_limit if is_artifact",
        "artifacts are bounded as requests are", REMOTE_TESTS),
    Bug(QUEUE, "isinstance(error, (OSError, MemoryError))", "isinstance(error, MemoryError)",
        "a far end that fails once costs the job", REMOTE_TESTS),
    Bug("services/messages.py", "    files: dict[FileName, Key] = {}",
        "    files: dict[str, Key] = {}",
        "a manifest may name files outside of its folder", (*REMOTE_TESTS, *BUNDLE_TESTS)),
    Bug("services/building.py", " {package_digest()}", "",
        "a check of other code is taken for one of this", COMPILER_TESTS),
    Bug("services/building.py", " {TOLERANCE}", "",
        "a check with another tolerance is taken for one with this", COMPILER_TESTS),
    Bug("services/records.py", "status.st_ino != self._inode or ", "",
        "a file that was replaced is not read again", LEDGER_TESTS),
    Bug("services/records.py", " or status.st_size < self._bytes", "",
        "a file that was cut is not read again", LEDGER_TESTS),
    Bug("services/records.py", "lines, self._lines, Record)", "lines, 0, Record)",
        "a broken line is named by its place in what was added", LEDGER_TESTS),
    Bug("services/records.py", "return dict(self._newest)", "return self._newest",
        "who asks may change the ledger", LEDGER_TESTS),
    Bug("services/records.py", "right = self.locked_mhz or self.sm_mhz[0]",
        "right = self.sm_mhz[0]", "a clock off the locked one is not seen", HEALTH_TESTS),
    Bug(WORKER, "                os.kill(self.horse_pid, signal.SIGUSR1)", "                pass",
        "a worker told to stop does its whole batch", DRAIN_TESTS),
    Bug(WORKER, "            self.kill_horse()", "            pass",
        "a worker waits for ever for what does not end", DRAIN_TESTS),
    Bug(WORKER, "            job.give_back()", "            pass",
        "what a stopping worker killed counts as tried", DRAIN_TESTS),
    Bug(WORKER, "job.retries_left = (job.retries_left or 0) + 1", "pass",
        "a worker that stops costs the batch a try", DRAIN_TESTS),
    Bug(WORKER, "        self.bounds.apply()", "        pass",
        "a compile takes all there is", DRAIN_TESTS),
    Bug(WORKER, "lambda *_: sys.exit(0))", "signal.SIG_DFL)",
        "a worker that is stopped while it starts fails",
        ("tests/services/test_drain.py::test_a_worker_that_has_hardly_begun_ends_with_0",)),
    Bug(QUEUE, "            if self.stopping:", "            if False:",
        "a worker told to stop does its whole batch", DRAIN_TESTS),
    Bug(QUEUE, "            os.kill(os.getppid(), signal.SIGTERM)", "            pass",
        "a worker whose machine is unfit goes on", UNFIT_TESTS),
    Bug(QUEUE, "    except Unfit:\n        raise\n", "",
        "a GPU's fault is the house's", UNFIT_TESTS),
    Bug(QUEUE, "                \"cause\": None,\n", "",
        "why work waited once is why it was done", UNFIT_TESTS),
    Bug(QUEUE, " and getattr(error, \"errno\", 0) != errno.EFBIG", "",
        "a kernel that writes too much is the house's fault", DRAIN_TESTS),
    Bug(RUNNER, "            why = None if measured else at.canary(uuid)", "            why = None",
        "nobody asks a GPU after trouble", HEALTH_TESTS),
    Bug(RUNNER, "why = None if measured else at.canary(uuid)", "why = at.canary(uuid)",
        "a GPU is asked after every measurement", HEALTH_TESTS),
    Bug(RUNNER, "    if fatal or why is not None:", "    if why is not None:",
        "what only a device reports is not looked at", HEALTH_TESTS),
    Bug(RUNNER, "        tell(measurement.uuid, str(error), settings)\n", "",
        "nobody is told that a GPU is unfit", UNFIT_TESTS),
    Bug("services/runner/child.py", "1.0 if in_time else 0.0", "1.0",
        "a child that hangs is waited for",
        ("tests/services/test_promises.py::"
         "test_a_stuck_measurement_is_killed_at_its_limit_and_the_next_begins_at_once",)),
    Bug("services/runner/child.py", "        _kill(pid)\n        said()", "        said()",
        "who listens to the driver stays", HEALTH_TESTS),
    Bug("services/runner/xids.py", "return number in XIDS and XIDS[number].fatal", "return True",
        "a program's fault is its device's", HEALTH_TESTS),
    Bug("services/runner/canary.py", "        if event.get(\"wrong\"):", "        if False:",
        "a canary with wrong words passes", HEALTH_TESTS),
    Bug("services/runner/__main__.py", "    if device and why is not None:", "    if False:",
        "a runner serves with an unfit GPU", HEALTH_TESTS),
    Bug("services/runner/__main__.py", "    with jobs.locked(at.locks, uuid):", "    if True:",
        "a canary disturbs a measurement", HEALTH_TESTS),
    Bug("services/api/app.py", "        if request.app.state.going:", "        if False:",
        "an API that is about to end takes work", STANDING_TESTS),
    Bug("services/api/app.py", "        if resumes:", "        if False:",
        "what was accepted before a restart is forgotten", STANDING_TESTS),
    Bug("services/api/app.py", " and not runs.is_cancelled(plan, fleet)", "",
        "what was taken back comes again", STANDING_TESTS),
    Bug("services/api/app.py", "if plan.created_at > since and", "if",
        "old runs are dug out", STANDING_TESTS),
    Bug("services/api/app.py", "    while size or days:", "    while False:",
        "the store grows for ever", STANDING_TESTS),
    Bug("services/api/app.py", "    if not artifacts.has_room(fleet):\n                return",
        "    if False:\n                return",
        "work is taken on a full disk",
        ("tests/services/test_promises.py::test_a_disk_that_is_nearly_full_takes_nothing_more",)),
    Bug("services/runs.py", "    _cancelled(plan, fleet).unlink(missing_ok=True)\n", "",
        "what was taken back once stays so", STANDING_TESTS),
    Bug(CLOCKS, "        [*ask, \"--persistence-mode=1\"],\n", "",
        "a lock is forgotten", CLOCKS_TESTS),
    Bug(CLOCKS, ", [*ask, \"--reset-memory-clocks\"]", "",
        "the memory stays locked", CLOCKS_TESTS),
    Bug(CLOCKS, "or \"not supported\" in said.lower()", "",
        "a refusal counts as done", CLOCKS_TESTS),
    Bug(CLOCKS, "key=lambda clock: abs(clock - wanted)", "key=lambda clock: clock",
        "another clock is locked", CLOCKS_TESTS),
    Bug("tilus/kernels/canary.py", "t.add(t.mul(words, factor), addend)", "t.mul(words, factor)",
        "the canary is not what NumPy says", ("tests/tilus/test_canary.py",)),
]
BUGS += [
    Bug(PEER, "sys.path.insert(0, sys.argv[1])", "sys.path.append(sys.argv[1])",
        "a peer's child imports our package of the same name", PEER_TESTS),
    Bug(PEER, "if done.returncode != 0:", "if False:", "how a child ended is not told", PEER_TESTS),
    Bug(PUBLIC, "parts = [spec.canonical(), SCRIPT.read_text(), repr(installed)]",
        "parts = [spec.canonical(), SCRIPT.read_text()]",
        "another version of a peer has the same key", PEER_TESTS),
    Bug(PUBLIC, "arch=specific(arch)", "arch=arch",
        "a peer gets less than the chip has", PEER_TESTS),
    Bug(PUBLIC, "parts.permute(0, 5, 7, 3, 1, 6, 2, 4)", "parts.permute(0, 5, 7, 3, 1, 6, 4, 2)",
        "a thread's codes are out of order", WEIGHT_TESTS),
    Bug(PUBLIC, "math.gcd(packed.shape[2], RUN)", "packed.shape[2]",
        "a thread's bytes are not read in runs", WEIGHT_TESTS),
    Bug(PUBLIC, "range(low // 8, (low + bits - 1) // 8 + 1)", "range(low // 8, low // 8 + 1)",
        "a code across two bytes loses its upper part", WEIGHT_TESTS),
    Bug(HUMMING, "        flipped ^= 1 << (dtype.bits - 1)\n", "        pass\n",
        "signed codes keep their sign bit", WEIGHT_TESTS),
    Bug(HUMMING, """b_dtype.startswith("uint"):""", "b_dtype == \"uint8\":",
        "unsigned weights without zero points are centred", WEIGHT_TESTS),
    Bug(HUMMING, "problem.activations[slot]", "problem.activations[0]",
        "every slot multiplies the same activation", WEIGHT_TESTS),
    Bug(TABLE, "found / own for name", "own / found for name",
        "who is ahead is behind", BENCH_TESTS),
    Bug(TABLE, "        if ratio < 1\n", "        if ratio > 1\n",
        "the cells that are lost are those that are won", BENCH_TESTS),
    Bug(TABLE, "math.exp(sum(map(math.log, values)) / len(values))", "sum(values) / len(values)",
        "means are not geometric", BENCH_TESTS),
    Bug(TABLE, "record.bytes / (record.latency_ms or math.nan) / GB",
        "record.bytes / (record.floor_ms or math.nan) / GB",
        "the bandwidth is the floor's", BENCH_TESTS),
    Bug(SELECTION, "cells = bench_cells(dtypes, shapes, batches, others, request.group_size)",
        "cells = bench_cells(dtypes, shapes, batches, others, None)",
        "a group size is not heard", BENCH_TESTS),
    Bug("services/driver/app.py", "if r.gpu.uuid == request.uuid}", "if r.gpu.uuid}",
        "another GPU's records are in the table", BENCH_TESTS),
    Bug("services/records.py", "return \"bench.jsonl\" if figure == BENCH else", "return",
        "the benchmark's records are a figure's", BENCH_TESTS),
    Bug("services/runs.py", "drawings = [] if request.figure == BENCH else",
        "drawings = [] if request.figure == -1 else",
        "the benchmark is drawn", BENCH_TESTS),
]
# fmt: on


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", BUGS))
