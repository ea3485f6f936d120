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
FEED, EVENTS = "services/api/feed.py", "services/api/events.py"
FEED_TESTS = ("tests/services/test_feed.py",)
SHOWN_TESTS = ("tests/services/test_shown.py",)
# Puts a manifest before its files.
FILES_FIRST = """        for name, content in files.items():
            self.set("cas", digests[name], content)
"""
LAST = """        self.set("ac", stored.key, seal(stored))
        return stored
"""
BEHIND = "        self.behind.set(space, name, content)\n"
HERE = "        self.here.set(space, name, content)\n\n    def get_manifest"


def of_page(name: str) -> tuple[str, ...]:
    """One test of the page, which needs a browser: without one such a row survives."""
    return (f"tests/services/test_page.py::test_{name}",)


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
    Bug(ARTIFACTS, "settings.store_token if _is", "settings.token if _is",
        "who begins runs writes kernels", REMOTE_TESTS),
    Bug(ARTIFACTS, "settings.artifact_limit if _is", "settings.body_limit if _is",
        "artifacts are bounded as requests are", REMOTE_TESTS),
    Bug(QUEUE, "(OSError, MemoryError)", "MemoryError",
        "a far end that fails once costs the job", REMOTE_TESTS),
    Bug("services/messages.py", "    files: dict[FileName, Key] = {}",
        "    files: dict[str, Key] = {}",
        "a manifest may name files outside of its folder", (*REMOTE_TESTS, *BUNDLE_TESTS)),
    Bug(FEED, "if event.number > number)", "if event.number >= number)",
        "who comes back is told the last event again", FEED_TESTS),
    Bug(FEED, "if event.number > number)", "if event.number > number + 1)",
        "who comes back misses an event", FEED_TESTS),
    Bug(FEED, "if known is None or known.data != data:", "if True:",
        "what did not change is news", FEED_TESTS),
    Bug(FEED, "rf\"{self._epoch}-(", "rf\".*-(",
        "the numbers of another process are believed", FEED_TESTS),
    Bug(FEED, "if time.monotonic() - self._looked < LOOK_SECONDS:", "if False:",
        "each listener looks for itself", FEED_TESTS),
    Bug(FEED, "        self._events = events", "        self._events |= events",
        "what is gone is kept for ever", FEED_TESTS),
    Bug(EVENTS, "if self.taken >= LISTENERS:", "if False:",
        "there is no end of listeners", FEED_TESTS),
    Bug(EVENTS, "            self.taken -= 1", "            pass",
        "a place that is left stays taken", FEED_TESTS),
    Bug(EVENTS, "        if state.finished:", "        if True:",
        "a run is never looked at again", FEED_TESTS),
    Bug(EVENTS, "        if since == changed:", "        if since:",
        "a run that is begun again stays over", FEED_TESTS),
    Bug(EVENTS, ", exclude=UNSAID)", ")",
        "each event carries a table of other numbers", FEED_TESTS),
    Bug("services/api/runs.py", "if said != last_event_id:", "if True:",
        "a run is told twice to who comes back", FEED_TESTS),
    Bug("services/api/__main__.py", "timeout_graceful_shutdown=LEAVE_SECONDS,", "",
        "an API waits for its listeners when it is told to stop", FEED_TESTS),
    Bug("services/api/figures.py", "    if Source(mode=mode, gpu=gpu) not in", "    if None in",
        "records that are not there are nothing at all", SHOWN_TESTS),
    Bug("services/api/kernels.py", "if key > after else None", "if key >= after else None",
        "the next page begins with the last kernel of this one", SHOWN_TESTS),
    Bug("services/api/kernels.py", "if more else None", "if kernels else None",
        "a list ends with a page that is empty", SHOWN_TESTS),
    Bug("services/api/web.py", "    \"require-trusted-types-for\": \"'script'\",\n", "",
        "a browser takes text for HTML", SHOWN_TESTS),
    Bug("services/web/api.js", "sessionStorage.setItem(TOKEN, token)",
        "localStorage.setItem(TOKEN, token)",
        "the token outlives its tab",
        of_page("a_change_asks_for_the_token_and_the_tab_alone_keeps_it")),
    Bug("services/web/api.js", "      forget();\n", "",
        "a token that was refused is offered to be forgotten",
        of_page("a_change_asks_for_the_token_and_the_tab_alone_keeps_it")),
    Bug("services/web/figures.js", "ArrowDown: at + 1", "ArrowDown: at + 2",
        "arrow keys leave bars out", of_page("a_bar_tells_its_record_to_pointer_and_keys")),
    Bug("services/web/figures.js", "event.key === \"Escape\" && hideTip()", "event.key",
        "Escape does not take the words away",
        of_page("a_bar_tells_its_record_to_pointer_and_keys")),
    Bug("services/web/figures.js", "(Math.log2(speed) - low)", "(speed - low)",
        "bars are drawn on another scale than their axis",
        of_page("bars_are_as_long_as_they_are_fast")),
    Bug("services/web/results.js", "`'${given}`", "given",
        "a spreadsheet computes a reason", of_page("results_are_filtered_sorted_and_taken_away")),
    Bug("services/web/results.js", " * (order.up ? 1 : -1);", ";",
        "what has no number comes first", of_page("results_are_filtered_sorted_and_taken_away")),
    Bug("services/web/feed.js", "if (source.readyState !== EventSource.CLOSED) {", "if (true) {",
        "who gets no place is told that the API is away", of_page("a_page_too_many_is_told")),
    Bug("services/web/page.css", "--muted: #57616b;", "--muted: #9aa3ab;",
        "hints are too pale to be read", of_page("every_view_fits_and_can_be_read_by_everybody")),
    Bug("services/web/page.css", ".scroll { overflow: auto;", ".scroll { overflow: visible;",
        "a wide table makes the page wide",
        of_page("every_view_fits_and_can_be_read_by_everybody")),
    Bug("services/web/runs.js", "    if (rest === before) return;", "    if (before) return;",
        "failures that come later are not shown", of_page("a_run_is_seen_as_it_goes")),
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
