"""Seeded bugs: each row breaks one file in one place, and the tests it names must then fail.

    python -m tests.tilus.seeded            every row; a survivor is a hole in the tests
    python -m tests.tilus.seeded dtypes     the rows of files with this word in their name

Each row is applied to a copy of the tree. The exit status is 1 when a bug survives or when a row
no longer fits its file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COPIED = (
    *("tilus", "tests/tilus", "examples", "tests/examples"),
    *("services", "tests/services", "tests/conftest.py", "docs", "pyproject.toml"),
    *("scripts", "tests/test_lock_gpu_clocks.py"),
)


class Bug(NamedTuple):
    file: str
    right: str
    wrong: str
    what: str
    tests: tuple[str, ...] = ()  # the file's own tests, if none are named


DTYPES = "tilus/dtypes.py"
LAYOUT = "tilus/layout.py"
BITS, CASTS = "tilus/prelude/common/bits.cuh", "tilus/casts.py"
ADDRESSING = "tilus/isa/addressing.py"
ELEMENTWISE, REDUCTION = "tilus/isa/elementwise.py", "tilus/isa/reduction.py"
DEBUGGING = "tilus/isa/debugging.py"
ACCESS = "tilus/isa/access.py"
ARITHMETIC = "tilus/prelude/common/arithmetic.cuh"
MATMUL_ISA, KERNEL = "tilus/isa/matmul.py", "tilus/kernels/matmul_block.py"
FEED = "tilus/kernels/feed.py"
DIVISION = "tilus/kernels/division.py"
SHARED, DRAWING = "tilus/shared_layout.py", "tilus/inspect/drawing.py"
WHERE, OCCUPANCY = "tilus/where.py", "tilus/occupancy.py"
ISA = ("tests/tilus/test_isa.py",)
LANGUAGE = ("tests/tilus/test_language.py",)
CAST_TESTS = ("tests/tilus/test_casts.py",)
MATMUL = ("tests/tilus/test_quantized_matmul.py",)
BARRIERS, HOST_HOPPER = "tilus/isa/barriers.py", "tilus/prelude/host/hopper.cuh"
HOPPER = ("tests/tilus/test_hopper.py",)
DEBUG = ("tests/tilus/test_debug.py",)
INSPECT = ("tests/tilus/test_inspect.py",)
ADMISSION, NODES, NAMES = "tilus/admission.py", "tilus/nodes.py", "tilus/names.py"
WATCHING = "tilus/prelude/host/watch.cuh"
HOSTILE, WATCH = ("tests/tilus/test_hostile.py",), ("tests/tilus/test_watch.py",)
TENSORS, LAUNCHER = "tilus/isa/tensor_copies.py", "tilus/runtime/launcher.py"
TENSOR_TESTS = ("tests/tilus/test_tensor_copies.py",)
LANG, HOST = "tilus/lang.py", "tilus/prelude/host/tilus.cuh"
TARGETS = ("tests/tilus/test_targets.py",)
CLUSTERS = "tilus/isa/clusters.py"
GROUPS, CODEGEN = "tilus/groups.py", "tilus/codegen/__init__.py"
PASSES, VALUES_FILE = "tilus/passes/", "tilus/values.py"
VERIFY, SIMPLIFY = ("tests/tilus/test_passes_verify.py",), ("tests/tilus/test_passes_simplify.py",)
PIPELINE, INFER = (
    ("tests/tilus/test_passes_pipeline.py",), ("tests/tilus/test_passes_infer_layouts.py",)
)  # fmt: skip
SHARED_PLAN, VALUES = (
    ("tests/tilus/test_passes_plan_shared.py",), ("tests/tilus/test_values.py",)
)  # fmt: skip
ANSWERS = ("tests/tilus/test_passes_keep_answers.py",)

EXAMPLES = ("tests/examples/test_examples.py",)

# fmt: off
BUGS = [
    Bug(DTYPES, "(1 << self.exponent >> 1) - 1", "(1 << self.exponent >> 1)",
        "exponent bias off by one"),
    Bug(DTYPES, "np.maximum(exponent, 1) - self.bias", "exponent - self.bias",
        "subnormals scaled as normals"),
    Bug(DTYPES, '{(5, 2): "ieee", (4, 3): "fn"}', '{(5, 2): "ieee"}',
        "e4m3 without NaN, up to 480"),
    Bug(DTYPES, '{(5, 2): "ieee", (4, 3): "fn"}', '{(5, 2): "ieee", (4, 3): "ieee"}',
        "e4m3 with infinities"),
    Bug(DTYPES, "np.rint(scaled)).astype", "np.floor(scaled + 0.5)).astype",
        "ties rounded up"),
    Bug(DTYPES, "np.rint(scaled)).astype", "np.floor(scaled)).astype",
        "truncation instead of rounding"),
    Bug(DTYPES, "np.where(below & 1, np.ceil(scaled - 0.5), np.rint(scaled))", "np.rint(scaled)",
        "ties between powers of two to the odd code"),
    Bug(DTYPES, "np.maximum(np.frexp(size)[1] - 1, lowest)", "np.frexp(size)[1] - 1",
        "numbers below the smallest normal keep their exponent"),
    Bug(DTYPES, "code > self._largest, self._beyond", "code > self._largest + 1, self._beyond",
        "overflow seen one code too late"),
    Bug(DTYPES, '"saturate": ()', '"saturate": ("ieee",)',
        "e5m2 overflows to infinity unasked"),
    Bug(DTYPES, '"cast": ("ieee",)', '"cast": ("ieee", "fn")',
        "a cast beyond e4m3 gives NaN"),
    Bug(DTYPES, "np.minimum(np.abs(numbers), 4 * self.max)", "np.abs(numbers)",
        "infinity has the exponent of zero"),
    Bug(DTYPES, 'np.signbit(numbers) & ~(nan & (self.specials == "none"))', "numbers < 0",
        "minus zero and minus NaN lose their sign"),
    Bug(DTYPES, ' & ~(nan & (self.specials == "none"))', "",
        "minus NaN cast to the smallest value"),
    Bug(DTYPES, '1 + (1 << self.mantissa >> 1)', "1",
        "NaN written as a signalling one"),
    Bug(DTYPES, "np.rint(np.where(nan", "np.trunc(np.where(nan",
        "integers truncated"),
    Bug(DTYPES, "rounded >= float(self.max)", "rounded > float(self.max)",
        "2^64 wraps to 0"),
    Bug(DTYPES, "np.where(nan, 0, numbers)", "np.where(nan, 1, numbers)",
        "NaN cast to an integer is not 0"),
    Bug(DTYPES, "max(self.min, bounds.min)", "bounds.min",
        "negative integers wrap into unsigned ones"),
    Bug(DTYPES, "^ sign) - sign", "^ sign)",
        "no sign extension"),
    Bug(DTYPES, '(self.bits - (self.kind == "int"))', "self.bits",
        "signed integers as wide as unsigned ones"),
    Bug(DTYPES, 'groups[:, k].astype("<u8")', 'groups[:, 7 - k].astype("<u8")',
        "codes packed from the other end"),
    Bug(DTYPES, "codes[:, k] = (words", "codes[:, 7 - k] = (words",
        "codes unpacked from the other end"),
    Bug(DTYPES, "(count * self.bits + 7) // 8", "count * self.bits // 8",
        "the last byte of a tensor lost"),
    Bug(DTYPES, "& np.uint64(self._mask)\n", "& np.uint64(255)\n",
        "unpacked codes keep bits of their neighbour"),
    Bug(DTYPES, "given.min() >= 0 and given.max() <= self._mask", "given.max() <= self._mask",
        "negative codes accepted"),
    Bug(DTYPES, "given.max() <= self._mask)", "given.max() <= self._mask + 1)",
        "one code too many accepted"),
    Bug(DTYPES, ">> self._unused << (self._unused + 32 - self.bits)", "<< (32 - self.bits)",
        "tfloat32 reads bits that mean nothing"),
    Bug(DTYPES, 'limited = numbers.clip(self.min, self.max) if overflow == "saturate" else numbers',
        "limited = numbers", "float16 does not saturate"),
    Bug(DTYPES, "np.not_equal(given, 0)", "np.greater(given, 0)",
        "negative numbers are false"),
    Bug(DTYPES, "exponent < 1 or mantissa < 0", "exponent < 0 or mantissa < 0",
        "floats without exponent accepted"),

    Bug(LAYOUT, "number if weight == 1 else number // weight", "number // weight",
        "a division by one in every expression"),
    Bug(LAYOUT, "upper if place == len(modes) else upper % mode.size", "upper % mode.size",
        "a remainder that changes nothing in every expression"),
    Bug(LAYOUT, "upper if place == len(modes) else upper % mode.size",
        "upper if place >= len(modes) - 1 else upper % mode.size",
        "the second digit keeps the first"),
    Bug(LAYOUT, "weight *= mode.size", "weight += mode.size",
        "digits weighed by the sum of sizes"),
    Bug(LAYOUT, "(*_scaled(self.thread_modes, inner.shape, int.__mul__), *inner.thread_modes)",
        "(*inner.thread_modes, *_scaled(self.thread_modes, inner.shape, int.__mul__))",
        "the inner factor's threads are the outer ones"),
    Bug(LAYOUT,
        "(*_scaled(self.register_modes, inner.shape, int.__mul__), *inner.register_modes)",
        "(*inner.register_modes, *_scaled(self.register_modes, inner.shape, int.__mul__))",
        "the inner factor's registers are the outer ones"),
    Bug(LAYOUT, "(thread_inner, register_inner) != (inner.thread_modes, inner.register_modes)",
        "thread_inner != inner.thread_modes", "division looks at threads only"),
    Bug(LAYOUT, "taken = gcd(size, count)", "taken = min(size, count)",
        "a mode of 6 cut at 4"),
    Bug(LAYOUT, "Mode(size // taken, dim, stride * taken)", "Mode(size // taken, dim, stride)",
        "the outer half of a cut mode keeps its stride"),
    Bug(LAYOUT, "if merged and merged[-1][1:] == (mode.dim, mode.stride * mode.size):",
        "if False:", "modes are never merged: equal functions differ"),
    Bug(LAYOUT, "if merged and merged[-1][1:] == (mode.dim, mode.stride * mode.size):",
        "if merged and merged[-1].dim == mode.dim:", "modes of one dimension always merged"),
    Bug(LAYOUT, "        if mode.size == 1:\n            continue\n", "",
        "modes of size one are kept: equal functions differ"),
    Bug(LAYOUT, "if mode.stride != reached:", "if mode.stride < reached:",
        "elements left out"),
    Bug(LAYOUT, "        if reached == extent:\n            return\n", "        return\n",
        "a shape larger than its modes"),
    Bug(LAYOUT, "    if any(mode.dim == REPLICA for mode in register_modes):", "    if False:",
        "registers may hold replicas"),
    Bug(LAYOUT, "if mode.size < 1 or not", "if not",
        "negative sizes accepted"),
    Bug(LAYOUT, "[(m.size, REPLICA, 0) if m.dim in gone else m for m in a.thread_modes]",
        "[m for m in a.thread_modes if m.dim not in gone]", "reducing drops threads"),
    Bug(LAYOUT, "for k in order for mode in digits[k]",
        "for k in range(len(order)) for mode in digits[order.index(k)]",
        "registers permuted by the inverse order"),
    Bug(LAYOUT, "    if _count(rest) > 1:", "    if False:",
        "an uneven permutation loses registers"),
    Bug(LAYOUT, "digit = upper if stride * size == shape[dim] else upper % size", "digit = upper",
        "an owner takes all higher digits"),
    Bug(LAYOUT, "upper = index[dim] if stride == 1 else index[dim] // stride", "upper = index[dim]",
        "an owner ignores strides"),
    Bug(LAYOUT, "    weight = _count(modes)\n    for size, dim, stride in modes:",
        "    weight = _count(m for m in modes if m.dim != REPLICA)\n"
        "    for size, dim, stride in modes:", "an owner counts without replicas"),
    Bug(LAYOUT, "return size & -size", "return size",
        "a run of 3 is no vector"),
    Bug(LAYOUT, "a.register_modes[-1][1:] != (dim, 1)", "a.register_modes[-1].dim != dim",
        "strided registers called contiguous"),
    Bug(LAYOUT, "copy = _plus(_times(copy, mode.size), digit)", "copy = _plus(copy, digit)",
        "two replicas share a number"),
    Bug(LAYOUT, '        _same_rank("product", self, inner)\n', "",
        "the product of different ranks is another error"),
    Bug(LAYOUT, "[(n, dim, 1) for dim, n in enumerate(shape)][::-1], ())",
        "[(n, dim, 1) for dim, n in enumerate(shape)], ())", "column_spatial goes along rows"),
    Bug(LAYOUT, "    while count > 1 and outer:", "    while count > 1:",
        "dividing by a larger layout is another error"),
    Bug(BITS, "return sub_f16_pair(L::word(words), L::offset);", "return L::word(words);",
        "an integer cast that keeps its offset", ISA),
    Bug(BITS, "LOW % 2 ? 0x32 : 0x10", "LOW % 2 ? 0x10 : 0x32",
        "halves picked from the wrong end", ISA),
    Bug(BITS, "both(1u << (MANTISSA + E))", "both(1u << (MANTISSA + E - 1))",
        "NaN and infinity seen in other codes", ISA),
    Bug(BITS, "Integer<I<N>> { static constexpr uint32_t sign = 1u << (N - 1); }",
        "Integer<I<N>> { static constexpr uint32_t sign = 0; }",
        "signed integers read as unsigned", ISA),
    Bug(BITS, "both(f16_power_of_two(15 - P::bias))", "both(f16_power_of_two(14 - P::bias))",
        "a float cast off by a factor of 2", ISA),
    Bug(BITS, "(1u << (22 - M)) - 1 + (moved", "(1u << (22 - M)) + (moved",
        "ties rounded up", CAST_TESTS),
    Bug(BITS, "(uint32_t)(128 - bias) << 23)", "(uint32_t)(127 - bias) << 23)",
        "the largest subnormals encoded as normals", CAST_TESTS),
    Bug(BITS, "(code > largest ? beyond : code)", "(code >= largest ? beyond : code)",
        "the largest value of e5m2 is infinite", CAST_TESTS),
    Bug(BITS, "return S == NONE ? nan : nan | sign;", "return nan | sign;",
        "minus NaN becomes the smallest value", CAST_TESTS),
    Bug(BITS, "(value & 0xFF ? 0x100u : 0u)", "0u",
        "integers rounded twice", CAST_TESTS),
    Bug(BITS, "value > most ? most : value < -most - 1", "value < -most - 1",
        "integers wrap in a narrower signed type", CAST_TESTS),
    Bug(BITS, "return value < 0 ? 0 : bits((unsigned)value)", "return bits((unsigned)value)",
        "negative integers are the largest unsigned ones", CAST_TESTS),
    Bug(BITS, "(value >> (32 - shift) & rest)", "(value & rest)",
        "the part of an element in the next word is its low one", CAST_TESTS),
    Bug(CASTS, "return 16 // gcd(bits, 16)", "return 8 // gcd(bits, 8)",
        "pairs in the same half", ISA),
    Bug(CASTS, "2, d), (0, 2, 1))", "2, d), (0, 1, 2))",
        "a fast cast's result in the order it came", ISA),
    Bug(CASTS, "return at // 8 * 8 if at % 8", "return at // 8 * 4 if at % 8",
        "fields moved half as far as they must", ISA),
    Bug(REDUCTION, "min(size, max(1, WARP // weight))", "size",
        "shuffles between warps", ISA),
    Bug(REDUCTION, "weight << bit for bit in range(size.bit_length() - 1)",
        "weight << bit for bit in range(size.bit_length() - 2)", "half of the lanes left out", ISA),
    Bug(REDUCTION, "cu.expr(THREAD - own)", "cu.expr(THREAD)", "sums of the wrong warps", ISA),
    Bug(REDUCTION, '            cu.line(f"part{i} = {value};")\n    Synchronize().cuda(cu, None)',
        '            cu.line(f"part{i} = {value};")', "no barrier before the scratch is used again",
        ("tests/tilus/test_language.py",)),
    Bug(ELEMENTWISE, '"{} >= {}"', '"{} > {}"', "equal numbers are not greater or equal", ISA),
    Bug(ARITHMETIC, "return b == -1 ? 0 : a % b;", "return a % b + (a % b < 0 ? b : 0);",
        "the remainder has the sign of the divisor", ISA),
    Bug(ARITHMETIC, "by < 32 ? a << by : 0", "a << by % 32", "shifts wrap around", ISA),
    Bug(ADDRESSING, "sorted(checked)]\n    return \" && \".join(tests) or \"true\"",
        "sorted(checked)]\n    return \"true\"", "no mask", ISA),
    Bug(ADDRESSING, "if last in checked else of", "if last in checked and False else of",
        "an access wider than the row is long", ISA),
    Bug(ACCESS, 'once = "" if replica == 0 else f" && {cu.expr(replica)} == 0"',
        'once = " && thread % 2 == 0"',
        "half of the elements are not stored", ISA),
    Bug("tilus/isa/matrices.py", "lane)}, warp = {cu.expr(warp)}", "lane)}, warp = {cu.expr(lane)}",
        "load_matrix forgets the warp", MATMUL),
    Bug("tilus/isa/matrices.py", 'f"if ({cu.expr(copy)} == 0)"', '""',
        "warps that hold copies of matrices all store them"),
    Bug("tilus/isa/matrices.py", "cu.scope(threads_below(layout, cu)),", "cu.scope(),",
        "warps that hold no matrices store some"),
    Bug("tilus/isa/matrices.py", '"" if deals_matrices(layout, MATRIX) else "_transposed"', '""',
        "columns stored as rows"),
    Bug("tilus/isa/matrices.py", 'index[-2] += Local("lane") % 8', 'index[-1] += Local("lane") % 8',
        "lanes say where columns lie"),
    Bug("tilus/isa/matrices.py", "frozenset(), cu) % 8", "frozenset(), cu) % 4",
        "rows of which half is aligned"),
    Bug("tilus/isa/matrices.py", 'needs = ("sm_90",)', 'needs = ("sm_80",)',
        "matrices stored where nothing can"),
    Bug("tilus/prelude/host/hopper.cuh", "mail[8 * j + lane % 4 * 2 + i][0] + lane / 4 * 2",
        "mail[8 * j + lane / 4][0] + lane % 4 * 4 + i * 2", "columns stored as rows",
        ("tests/tilus/test_matrices.py",)),
    Bug(MATMUL_ISA, "column_local(2, 2) * spatial(8, 4) * local(1, 2)",
        "local(2, 2) * spatial(8, 4) * local(1, 2)", "A's fragment row by row", ISA),
    Bug(MATMUL_ISA, "column_local(2, 2) * spatial(8, 4) * local(1, 4)",
        "local(2, 2) * spatial(8, 4) * local(1, 4)", "A's fragment of bytes row by row", ISA),
    Bug(MATMUL_ISA, "local(2, 1) * column_spatial(4, 8) * local(4, 1)",
        "column_spatial(4, 8) * local(8, 1)", "B's fragment of bytes without halves", ISA),
    Bug(MATMUL_ISA, '"mma_m16n8k32_u8_s8"', '"mma_m16n8k32_s8_u8"', "signs exchanged", ISA),
    Bug(MATMUL_ISA, '"mma_m16n8k32_e5m2_e5m2", "sm_89"', '"mma_m16n8k32_e5m2_e5m2"',
        "8-bit floats multiplied on sm_80", ISA),
    Bug(MATMUL_ISA, "c_first * out.dtype.bits // 32", "c_first",
        "sums of 16 bits counted as words", ISA),
    Bug("tilus/isa/matrices.py", 'MATRIX) else "_transposed"', 'MATRIX) else ""',
        "columns loaded as rows", ISA),
    Bug(DEBUGGING, "place = place * n + i", "place = place + i",
        "elements printed over each other", LANGUAGE),
    Bug(DEBUGGING, 'cu.line("return;")', 'cu.line("{}")', "exit goes on", LANGUAGE),
    Bug("tilus/prelude/host/tilus.cuh", "if (condition) return;", "return;",
        "no assertion fails on the host", LANGUAGE),
    Bug(BITS, "return value != 0;", "return value > 0;", "negative numbers are false", CAST_TESTS),
    Bug("tilus/isa/shuffles.py", "lane + by < WARP", "lane + by <= WARP",
        "the last lane wraps", ISA),
    Bug("tilus/isa/synchronization.py", '"max": AtomicOp(max,', '"max": AtomicOp(min,',
        "the larger is the smaller", ISA),
    Bug(ACCESS, "size * piece)\n                target", "size)\n                target",
        "all pieces of a group from one place", ISA),
    Bug(ACCESS, "    if rest:\n        return Group(1, 0, 0)\n", "",
        "parts of bytes moved as bytes", ISA),
    Bug(ADDRESSING, "{bit_offset(tensor, index, cu)} / 8", "{bit_offset(tensor, index, cu)}",
        "bits counted as bytes", ISA),
    Bug(BITS, "if (shift + BITS > 8) value |=", "value |=",
        "a bit field takes the next byte in where it ends in this one", ISA),
    Bug("tilus/interp.py", "place // 8, ~mask)", "place // 8, mask)",
        "the interpreter keeps old bits", ISA),
    Bug(FEED, "self.t.wait_group(self.ahead - 1)", "self.t.wait_group(self.ahead)",
        "a step is used before it has arrived", MATMUL),
    Bug(FEED, "        self.t.synchronize()\n        with", "        with",
        "a place is filled while others read it", MATMUL),
    Bug(FEED, "self.copied.turn ^ 1)", "self.copied.turn)",
        "a place is filled before it was released", MATMUL),
    Bug(FEED, "self.t.arrive(self.handover.released, unit.place)", "pass",
        "no place is released", MATMUL),
    Bug(FEED, "made.released, self.plan.warps * self.plan.teams", "made.released, self.plan.warps",
        "a place is free when one team has left it", MATMUL),
    Bug(KERNEL, "for team in range(1, self.plan.teams)", "for team in range(2, self.plan.teams)",
        "the second team's sums are left out", MATMUL),
    Bug(KERNEL, "self.raw_panel())), (0, 0))\n        t.synchronize()",
        "self.raw_panel())), (0, 0))",
        "teams' sums are added before they are there", MATMUL),
    Bug(DIVISION, "(1 - WASTE) * places <= tiles", "WASTE * places <= tiles",
        "most multiprocessors left idle", MATMUL),
    Bug("tilus/isa/warpgroup.py", "every // (threads // dot.count)", "every // threads",
        "parts need not be warpgroups' own", ISA),
    Bug("tilus/isa/warpgroup.py", "THREAD // (self.a.layout.threads // self.count)",
        "THREAD // self.a.layout.threads", "all parts multiplied by the first tile", ISA),
    Bug(KERNEL, "mine = t.blocks[0] * 2 + (begin <= first)", "mine = t.blocks[0] * 2",
        "two partial sums in one slot", MATMUL),
    Bug(KERNEL, "equal(arrived, newest - oldest)", "equal(arrived, newest - oldest - 1)",
        "the last but one to arrive adds up", MATMUL),
    Bug(KERNEL, "t.range(oldest, newest + 1)", "t.range(oldest, newest)",
        "the last block's share is left out", MATMUL),
    Bug(KERNEL, "t.store_global(counters, ", "print(counters, ",
        "counters are not left zero", MATMUL),
    Bug(FEED, "(first // self.problem.group_size, column)",
        "(unit.step * self.plan.block_k // self.problem.group_size, column)",
        "one scale for all groups of a step", MATMUL),
    Bug(KERNEL, "t.sub(offset, zero) if self.offset else t.neg(zero)",
        "t.sub(offset, zero) if self.offset else zero", "zeros added", MATMUL),
    Bug(KERNEL, "t.allocate_register(f32, column, -self.offset)",
        "t.allocate_register(f32, column, 0.0)", "what flipping signs adds is left in", MATMUL),
    Bug(KERNEL, "begun.popleft()(self.pending)", "begun.popleft()(self.pending + 1)",
        "a part is folded while it is being multiplied", MATMUL),
    Bug(DIVISION, "t.set(self.turn, self.turn ^ 1)", "t.set(self.turn, 0)",
        "phases of the ring are not told apart", MATMUL),
    Bug(DIVISION, "minimum(unit, self.cut) // (self.least + 1) + beyond //",
        "minimum(unit, self.cut) // self.least + beyond //", "the wrong block's share", MATMUL),
    Bug(CASTS, "np.uint16(1 << lift_place", "np.uint16(2 << lift_place",
        "lifted integers off by a factor of 2", CAST_TESTS),
    Bug(CASTS, "most = f16.mantissa + 1 - source.bits", "most = f16.mantissa + 2 - source.bits",
        "integers lifted into the exponent", CAST_TESTS),
    Bug(BITS, "Fields::place>(Fields::word(words)), mask, sign)",
        "Fields::place>(Fields::word(words)), mask, 0)",
        "signs of lifted integers not flipped", CAST_TESTS),
    Bug(BITS, "BY < -8 || FROM < 8", "BY < -8",
        "low fields lose bits on their way down", CAST_TESTS),
    Bug(BITS, "if constexpr (shift + N <= 32) return words[word] >> shift;",
        "return words[word] >> shift;",
        "fields across words cut off", ISA),
    Bug("tilus/isa/warpgroup.py", "advanced(b, {2 * depth})", "advanced(b, {depth})",
        "steps along k half as long", ISA),
    Bug("tilus/prelude/common/descriptor.cuh", "next = ROW_BYTES * GROUP_ROWS >> 4",
        "next = ROW_BYTES * GROUP_ROWS >> 3", "groups of rows twice as far apart", ISA),
    Bug(BARRIERS, "if self.arrivals and self.phase % 2 == phase % 2:", "if self.arrivals:",
        "copies happen before somebody has to wait", HOPPER),
    Bug(BARRIERS, "if not self.pending and not self.bytes:", "if not self.pending:",
        "a phase ends before its bytes have come", HOPPER),
    Bug(BARRIERS, 'binary("%", self.phase, 2)\n', "self.phase\n",
        "the phase's number taken for its parity", HOPPER),
    Bug(BARRIERS, "all(s[d - 1] == size for s in steps)", "any(s[d - 1] == size for s in steps)",
        "pieces that are contiguous in one place only", ISA),
    Bug(BARRIERS, "for s, n in zip(steps[lead:], outer, strict=False) if n > 1]",
        "for s, n in zip(steps[lead:], outer, strict=False) if n > 99]",
        "the distance between pieces is taken to be aligned", HOPPER),
    Bug(HOST_HOPPER, "if (!b.pending && !b.bytes)", "if (!b.pending)",
        "a phase ends on the host before its bytes have come", HOPPER),
    Bug(WHERE, "return len(raw[:start].decode()), stop", "return start, stop",
        "columns counted in bytes"),
    Bug(WHERE, " or file == contextlib.__file__", "",
        "a line of the standard library"),
    Bug(WHERE, " and not path.is_relative_to(LIBRARY)", "",
        "the kernel library has no lines"),
    Bug(WHERE, "stop = len(line) if first != last else len(raw[:end].decode())",
        "stop = len(raw[:end].decode())", "carets end where another line does"),
    Bug(OCCUPANCY, "REGISTERS // QUARTERS // of_a_warp * QUARTERS", "REGISTERS // of_a_warp",
        "a warp's registers lie in two quarters", DEBUG),
    Bug(OCCUPANCY, "shared_bytes + SYSTEM_SHARED", "shared_bytes",
        "the system's share is forgotten", DEBUG),
    Bug(OCCUPANCY, "REGISTER_UNIT = 256", "REGISTER_UNIT = 32",
        "registers are given one by one", DEBUG),
    Bug("tilus/debug.py", "rungs[:level]", "rungs[level - 1 : level]",
        "a level says only its own", DEBUG),
    Bug("tilus/debug.py", "program = change(program)", "change(program)",
        "passes that change nothing", DEBUG),
    Bug("tilus/debug.py", "if step.program != last:", "if True:",
        "programs shown that did not change", DEBUG),
    Bug(SHARED, "WARP * BANK_BYTES // bytes", "WARP",
        "all lanes of a wide access ask at once"),
    Bug(SHARED, "return max(busy)", "return sum(busy)",
        "every word takes a turn"),
    Bug(SHARED, "{(int(address) + part) // BANK_BYTES for address",
        "{int(address) // BANK_BYTES + part for address", "an access skips words"),
    Bug(SHARED, "turns, len(asked))", "turns, 1)", "the least is one turn whatever is asked"),
    Bug(SHARED, "return gcd(run, size, WIDEST * 8 // dtype.bits, *aligned)",
        "return gcd(run, size, WIDEST * 8 // dtype.bits)", "accesses wider than swizzled pieces"),
    Bug(SHARED, "return gcd(run, size, WIDEST", "return gcd(run, WIDEST",
        "accesses across the end of a row"),
    Bug(SHARED, "(*inner.swizzles, *outer)", "(*outer, *self.swizzles)",
        "a product loses the swizzle of its copies"),
    Bug(SHARED, "source=s.source + shift, target=s.target + shift", "source=s.source + shift",
        "a product's swizzle hits the copies"),
    Bug(SHARED, "if not np.array_equal(np.sort(swizzle(offsets)), offsets):", "if False:",
        "swizzles that lose elements"),
    Bug(SHARED, "min(bits, there)", "bits",
        "bits above the tensor get a meaning in a product"),
    Bug(DRAWING, '"#000000" if luminance(colour) > 0.179', '"#000000" if luminance(colour) > 0.4',
        "white text on light cells", INSPECT),
    Bug(DRAWING, "held[a(thread, register)].append((thread, register))",
        "held.setdefault(a(thread, register), [(thread, register)])", "replicas are not drawn",
        INSPECT),
    Bug(DRAWING, "plane % extent)\n        plane //= extent", "plane % extent)",
        "planes of four dimensions", INSPECT),
    Bug("tilus/inspect/casts.py", "/ ELEMENTS for pair", "/ (2 * ELEMENTS) for pair",
        "half the cost of a cast", INSPECT),
    Bug("tilus/inspect/casts.py", 'MOVES = ("LD", "ST", "NOP")', 'MOVES = ("NOP",)',
        "moves counted as work", INSPECT),
    Bug("tilus/inspect/dtypes.py", "bits[1 : 1 + t.exponent], bits[1 + t.exponent :]",
        "bits[1 : 1 + t.mantissa], bits[1 + t.mantissa :]", "fields in the wrong order", INSPECT),
    Bug("tilus/inspect/__init__.py", "takes = TAKES.get(words[0], ()) if words else ()",
        "takes = tuple(OPTIONS)", "options that mean nothing are taken", INSPECT),
    Bug("tilus/errors.py", "wrong.place or place(line, code)", "place(line, code)",
        "the outermost place is told", ("tests/tilus/test_where.py",)),
    Bug(GROUPS, "a.first < b.first + b.count and", "a.first <= b.first + b.count and",
        "neighbouring groups run one after the other", HOPPER),
    Bug(GROUPS, "return {span: i + 1 for", "return {span: i for",
        "a group synchronises at the block's barrier", HOPPER),
    Bug(GROUPS, "return {span: i + 1 for", "return {span: 1 for",
        "groups synchronise at one barrier", HOPPER),
    Bug(CODEGEN, "self.line(f\"const unsigned thread = {mine};\")", "pass",
        "threads of a group count from the block's first", HOPPER),
    Bug(TENSORS, "(span // PART).bit_length() - 1", "(span // PART).bit_length()",
        "boxes swizzled with one bit too many", TENSOR_TESTS),
    Bug(TENSORS, "want = LINE * self.span // PART or LINE", "want = LINE",
        "a swizzled box in the middle of a pattern", TENSOR_TESTS),
    Bug(TENSORS, "for i in reversed(self.there)", "for i in self.there",
        "the engine's indices in the order of the tensor's", ISA),
    Bug(HOST_HOPPER, "inside = inside && i >= 0 && i < map.shape[d];", "",
        "what is outside of a tensor does not arrive as zero", ISA),
    Bug(LAUNCHER, "stride * bytes for stride in strides", "stride for stride in strides",
        "a map with strides in elements", TENSOR_TESTS),
    Bug(LANG, "x + (y + z * self.cluster[1]) * self.cluster[0]",
        "(x * self.cluster[1] + y) * self.cluster[2] + z",
        "blocks of a cluster counted from the last dimension", HOPPER),
    Bug(HOST, "block.y = i / x % y * cluster.y + rank / cluster.x % cluster.y;",
        "block.y = i / x % y * cluster.y + rank % cluster.y;", "a cluster's blocks in one line",
        HOPPER),
    Bug(BITS, "<< (N > 4 ? 8 : 4);", "<< 8;", "nibbles a byte apart", TARGETS),
    Bug(BITS, "LOW / 8 % 4 | (HIGH / 8 % 4 + 4) << 4 | 0x4400",
        "(HIGH / 8 % 4 + 4) | LOW / 8 % 4 << 4 | 0x4400",
        "a pair's second element first", TARGETS),
    Bug(CASTS, 'needs=("sm_89",)', 'needs=("sm_80",)', "a conversion that old chips lack", TARGETS),
    Bug(HOST_HOPPER, "inside, peer_place(barrier, peer)}", "inside, barrier}",
        "a copy for peers is counted at one barrier", HOPPER),
    Bug(CLUSTERS, "there = block.of_peer(int(self.peer), self.barriers)",
        "there = barriers", "an arrival at the block's own barrier", HOPPER),
    Bug(PASSES + "rewrite.py", "self.next = 1 + max(", "self.next = max(",
        "new names that are taken", PIPELINE),
    Bug(PASSES + "rewrite.py", "names.update(t.name for t in statement.instruction.operands)",
        "pass", "what instructions read is not seen", ANSWERS),
    Bug(PASSES + "verify.py", "scope = replace(self, names=dict(self.names), lets=set(self.lets))",
        "scope = replace(self)", "names of a body are known behind it", VERIFY),
    Bug(PASSES + "verify.py", "if name not in self.lets", "if name not in self.names",
        "loop variables may be set", VERIFY),
    Bug(PASSES + "verify.py", "if self.names[tensor.name] != tensor", "if False",
        "operands may lie about their tensors", VERIFY),
    Bug(PASSES + "verify.py", "layout.threads > self.threads", "layout.threads < 0",
        "tiles over more threads than there are", VERIFY),
    Bug(PASSES + "simplify.py", "return then if condition else otherwise", "return then",
        "branches that are never taken", SIMPLIFY),
    Bug(PASSES + "simplify.py", " and statement.var.name not in changing", "",
        "variables that are set taken for constants", ANSWERS),
    Bug(PASSES + "simplify.py", "if runs_once(start, stop) and not leaves(body)",
        "if runs_once(start, stop)", "a break that leaves another loop", SIMPLIFY),
    Bug(PASSES + "simplify.py", "body, 1) if runs_once", "body) if runs_once",
        "a loop in stages loses them", SIMPLIFY),
    Bug(PASSES + "drop_dead.py", "= live | reads(loop) | ends", "= reads(loop) | ends",
        "what is read behind a loop is dead in it", ANSWERS),
    Bug(PASSES + "drop_dead.py", "if before <= live:", "if True:",
        "what the next turn reads is dead in this one", SIMPLIFY),
    Bug(PASSES + "drop_dead.py", "not isinstance(t, Register) or t.name in live",
        "t.name in live", "writes into memory are dead", ANSWERS),
    Bug(PASSES + "drop_dead.py", "if Effect.SYNC in inst.effect:", "if False:",
        "synchronises are dead", SIMPLIFY),
    Bug(PASSES + "drop_checks.py", "if not values.inside", "if values.inside",
        "checks dropped where they are needed", VALUES),
    Bug(VALUES_FILE, "[start] if runs_once(start, stop) else [start, 1]", "[start]",
        "a loop variable as divisible as its start", VALUES),
    Bug(VALUES_FILE, "found[name] = [minus(bound, constant(1)) for bound in stops]",
        "found[name] = [minus(bound, constant(2)) for bound in stops]", "ranges one shorter",
        VALUES),
    Bug(VALUES_FILE, " and not variables(self.ranges[name][1]) & self.changing", "",
        "a range whose end was changed since", VALUES),
    Bug(VALUES_FILE, "if name not in self.changing and all(", "if all(",
        "variables that are set have their first value", VALUES),
    Bug(VALUES_FILE, "return self.positive(at, known) and any(", "return any(",
        "tiles in front of their tensor", VALUES),
    Bug(VALUES_FILE, "if (k * prod(divisor(x, self.divisors) for x in m)).denominator != 1:",
        "if False:", "quotients taken for exact", VALUES),
    Bug(PASSES + "plan_shared.py", "return self.over is not None and self.over < other.first",
        "return True", "tensors that live at the same time share", SHARED_PLAN),
    Bug(PASSES + "plan_shared.py", "if s.number > number and not s.home)", "if s.number > number)",
        "a synchronize in a branch counts", SHARED_PLAN),
    Bug(PASSES + "plan_shared.py", "here = step.home == copy.home and not leaves",
        "here = step.home == copy.home", "a break between copy and commit", SHARED_PLAN),
    Bug(PASSES + "plan_shared.py", "if step.inst.closes_group and (here or not step.home):",
        "if step.inst.closes_group:", "a commit in a branch counts", SHARED_PLAN),
    Bug(PASSES + "plan_shared.py", "names.add(step.out.name)  # a view", "pass",
        "what a view touches is free", SHARED_PLAN),
    Bug(PASSES + "pipeline.py", "Do(WaitGroup(ahead - 1), None)", "Do(WaitGroup(ahead), None)",
        "one turn too few is waited for", PIPELINE),
    Bug(PASSES + "pipeline.py", "(place + ahead) % loop.stages", "place % loop.stages",
        "copies into the place that is read", PIPELINE),
    Bug(PASSES + "pipeline.py", "            Do(Synchronize(), None),\n            *self.copied",
        "            *self.copied", "no synchronize before the turn", PIPELINE),
    Bug(PASSES + "pipeline.py", "return (If(there, body),)", "return body",
        "copies of turns that there are not", PIPELINE),
    Bug(PASSES + "pipeline.py", 'place = binary("-", var, loop.start)', "place = var",
        "places counted from 0, turns from the start", PIPELINE),
    Bug(PASSES + "infer_layouts.py", "if self.known.get(tile, layout) != layout:", "if False:",
        "conflicts pass", INFER),
    Bug(PASSES + "infer_layouts.py", "key=lambda p: prod(next(iter(p[1].values())).shape)",
        "key=lambda p: 0", "small tiles choose first", INFER),
    Bug(MATMUL_ISA, "rows = reduce(over, (1,)) * local(1, depth) * atom.a",
        "rows = reduce(over, (0,)) * local(1, depth) * atom.a", "a as the columns of c", INFER),
    Bug(MATMUL_ISA, "2 * rows // g[0] + columns // g[1]", "rows // g[0] + 2 * columns // g[1]",
        "warps over the wrong side of a tile", INFER),
    Bug(CASTS, "// (2 * d), d, 2), (0, 2, 1))", "// (2 * d), 2, d), (0, 2, 1))",
        "the way back through a cast is the way there", INFER),
    Bug(ADDRESSING, "return replicate(threads // spread.threads, len(shape)) * spread",
        "return spread", "threads without a part of a tile", INFER),
    Bug("tilus/isa/elementwise.py", "alike = dict.fromkeys(large[:2], whole)", "alike: Known = {}",
        "results that lie otherwise than operands", INFER),
    Bug("tilus/interp.py", "copies, rest = split_copies(body) if stages > 1 else ((), body)",
        "copies, rest = (), body", "a loop in stages does not wait for its copies", PIPELINE),
    Bug("tilus/isa/memory.py", "if divisor(self.offset, cu.facts) % 16:", "if False:",
        "views at any byte", SHARED_PLAN),

    Bug(ADMISSION, "if declared is Var and value.name not in self.pointers:", "if False:",
        "any name taken for a pointer", HOSTILE),
    Bug(ADMISSION, "self.shared_bytes += 0 if views else", "self.shared_bytes = 0 if views else",
        "shared memory counted tensor by tensor", HOSTILE),
    Bug(ADMISSION, "require(UNROLL, stop - start,", "require(UNROLL, 0,",
        "a billion turns unrolled", HOSTILE),
    Bug(NODES, "check_at_least(1, b,", "check_at_least(0, b,",
        "a division by the number zero", HOSTILE),
    Bug(NODES, "                and len(value) == len(arguments)\n", "",
        "a grid of two dimensions", HOSTILE),
    Bug(NODES, "require(ELEMENTS, of.threads * of.registers,", "require(ELEMENTS, of.registers,",
        "a tile larger than a register file", HOSTILE),
    Bug(NAMES, "if not WORD.fullmatch(name)", "if not WORD.match(name)",
        "a name that goes on in C", HOSTILE),
    Bug(NAMES, 'r"(?!__)[A-Za-z_]', 'r"[A-Za-z_]', "a name that C keeps for itself", HOSTILE),
    Bug(CODEGEN, "len(text) * self._copies", "len(text)",
        "the size of unrolled text not counted", HOSTILE),
    Bug(CODEGEN, "cu.shared_bytes > cu.target.shared_bytes", "cu.shared_bytes > 227 << 10",
        "shared memory that the target lacks", HOSTILE),
    Bug(ADDRESSING, "first + extent > most", "first > most",
        "a tile that begins inside shared memory and ends outside", HOSTILE),
    Bug("tilus/isa/memory.py", "(source < target + bits or ", "(",
        "a swizzle that moves two elements to one place", HOSTILE),
    Bug("tilus/interp.py", "if self.left < 0:", "if self.left != self.left:",
        "an endless program interpreted for ever", HOSTILE),
    Bug(FEED, "self.t.fence_async()\n        self.t.synchronize()\n",
        "self.t.fence_async()\n",
        "the ring is read before others' copies arrived", WATCH),
    Bug(FEED, "self.t.wait_group(self.ahead - 1)", "self.t.wait_group(self.ahead)",
        "the ring is read a step too early", WATCH),
    Bug(FEED, "problem.n_multiple % plan.block_n != 0)", "False)",
        "columns beyond the edge are accessed", WATCH),
    Bug(WATCHING, "before.epoch <= watch.known[thread][before.thread]", "true",
        "no race within a block is told", WATCH),
    Bug(WATCHING, "constexpr int READERS = 8;", "constexpr int READERS = 1;",
        "only the last reader is remembered", WATCH),
    Bug(WATCHING, "before.tick <= watch.seen[before.block]", "true",
        "no race between blocks is told", WATCH),
    Bug(WATCHING, "  if (shadow.copier) {", "  if (false) {",
        "a copy under way is taken for done", WATCH),
    Bug(WATCHING, "copier = 0;\n  touch(to, bytes, WRITES, thread, line);", "copier = 0;",
        "a copy writes when it starts, not when it is waited for", WATCH),
    Bug(WATCHING, "from + bytes <= all[i].from + all[i].size)",
        "from < all[i].from + all[i].size + 64)",
        "an access behind an array is let through", WATCH),
    Bug("tilus/isa/memory.py", "in reversed(shape[1:]):", "in reversed(shape[:-1]):",
        "rows of a view as far apart as they are many", EXAMPLES),
    Bug("tilus/isa/masks.py", "index = beside(first, out.layout, register)", "index = first",
        "a mask of a thread's first element for all of them", EXAMPLES),
    Bug("tilus/passes/pipeline.py", "Do(WaitGroup(ahead - 1), None)", "Do(WaitGroup(ahead), None)",
        "a turn does not wait for its own copies", EXAMPLES),
    Bug("examples/08_flash_decode.py", "t.fma(total, shrink, weight)", "t.add(total, weight)",
        "a sum of exponentials that a larger score does not shrink", EXAMPLES),
    Bug("examples/07_matmul_f6.py", ".swapaxes(1, 2).ravel()", ".ravel()",
        "bytes stored lane by lane", EXAMPLES),
]
# fmt: on


def broken_copy(bug: Bug, at: Path) -> None:
    """A copy of the tree at `at` with the bug in it; ValueError when the row fits no place."""
    for name in COPIED:
        source = ROOT / name
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, at / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, at / name)
    file = at / bug.file
    text = file.read_text()
    if text.count(bug.right) != 1:
        raise ValueError(f"{text.count(bug.right)} places in {bug.file} read {bug.right!r}")
    broken = text.replace(bug.right, bug.wrong)
    try:
        if file.suffix == ".py":
            compile(broken, bug.file, "exec")
    except SyntaxError as error:
        raise ValueError(f"{bug.wrong!r} is no Python there: {error}") from error
    file.write_text(broken)


def verdict(bug: Bug) -> str:
    """`caught` and the first failing test, `SURVIVED`, or what is wrong with the row."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            broken_copy(bug, Path(folder))
        except ValueError as error:
            return f"STALE     {error}"
        tests = bug.tests or (f"tests/tilus/test_{Path(bug.file).stem}.py",)
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    if result.returncode == 0:
        return "SURVIVED"
    told = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not told:
        return f"BROKEN    {(result.stdout + result.stderr).strip().splitlines()[-1]}"
    return f"caught    {told[0].split('::')[-1].split('[')[0].split(' - ')[0]}"


def main(word: str, rows: list[Bug]) -> int:
    bugs = [bug for bug in rows if word in bug.file]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(verdict, bugs))
    for bug, said in zip(bugs, verdicts, strict=True):
        print(f"{said:<90} {bug.file}: {bug.what}")
    missed = sum(not said.startswith("caught") for said in verdicts)
    print(f"{len(bugs) - missed} of {len(bugs)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", BUGS))
