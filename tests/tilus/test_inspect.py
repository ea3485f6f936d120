"""Looking inside: the manual is that of the code, and wrong questions get a sentence."""

import doctest
import re
import shlex
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as xml
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from tilus import inspect
from tilus.config import VARIABLES
from tilus.dtypes import ALL, DType, bf16, dtype, f16
from tilus.errors import TilusError
from tilus.inspect.casts import costs, operation, way, work
from tilus.inspect.drawing import RAMP, colour_of, holders, ink, luminance, shade, svg
from tilus.inspect.dtypes import describe_dtypes
from tilus.inspect.expressions import shared_layout_of
from tilus.isa import ISA
from tilus.kernels import streaming_read
from tilus.layout import Layout, column_spatial, local, reduce, replicate, spatial
from tilus.runtime import sass
from tilus.shared_layout import bank_conflicts, column_major, row_major
from tilus.text import to_text

ROOT = Path(__file__).parent.parent.parent
needs_disassembler = pytest.mark.skipif(sass.found() is None, reason="no nvdisasm here")


def ask(question: str, *more: str) -> str:
    return inspect.answer([*question.split(), *more])


def test_the_manual_is_up_to_date() -> None:
    """If not: python -m tilus.inspect isa > docs/isa.md"""
    assert (ROOT / "docs" / "isa.md").read_text() == inspect.manual() + "\n"


def test_every_instruction_has_a_page() -> None:
    for name in ISA:
        assert f"## {name}(" in inspect.manual()


def test_a_page_says_which_architectures_an_instruction_needs() -> None:
    for name, kind in ISA.items():
        needed = {arch for one in kind.samples() or [kind] for arch in one.needs}
        said = re.search(r" Needs: (.*)\.$", inspect.page(name), re.MULTILINE)
        assert set(re.findall(r"sm_\w+", said[1]) if said else ["sm_80"]) == needed


def test_a_layout_is_drawn() -> None:
    drawn = ask("layout", "spatial(8, 4) * local(1, 2)")
    assert "shape (8, 8), 32 threads, 2 registers" in drawn
    assert drawn.splitlines()[3].split() == [f"{t}:{r}" for t in range(4) for r in range(2)]
    assert inspect.layout_of("(spatial(8, 4) * local(1, 2)) / local(1, 2)") == spatial(8, 4)
    assert inspect.layout_of("reduce(local(2, 3), (0,))") == local(1, 3)


def test_shared_layouts_are_read() -> None:
    plain = row_major(16, 64)
    swizzled = plain.swizzle(3, 6, 3)
    assert shared_layout_of("row_major(16, 64)") == plain
    for text in ("row_major(16, 64) swizzle(3, 6, 3)", "row_major(16, 64).swizzle(3, 6, 3)"):
        assert shared_layout_of(text) == swizzled
    both = "row_major(2, 2) * (column_major(8, 8) swizzle(1, 3, 0) swizzle(1, 4, 1))"
    wanted = row_major(2, 2) * column_major(8, 8).swizzle(1, 3, 0).swizzle(1, 4, 1)
    assert shared_layout_of(both) == wanted


def test_offsets_in_shared_memory_are_shown() -> None:
    shown = ask("shared", "row_major(4, 4) swizzle(2, 2, 0)").split("\n\n")[1]
    assert [list(map(int, line.split())) for line in shown.splitlines()] == [
        [(4 * i + j) ^ i for j in range(4)] for i in range(4)
    ]


@pytest.mark.parametrize("swizzle", ["", " swizzle(3, 6, 3)"])
def test_bank_conflicts_are_counted(swizzle: str) -> None:
    held = "local(2, 1) * spatial(8, 4) * local(1, 2)"
    shown = ask("shared", f"row_major(16, 64){swizzle}", "--dtype", "f16", "--layout", held)
    found = bank_conflicts(
        shared_layout_of(f"row_major(16, 64){swizzle}"), inspect.layout_of(held), f16
    )
    turns, least = sum(a.wavefronts for a in found), sum(a.least for a in found)
    assert shown.splitlines()[1] == "2 accesses of a warp, 4 bytes a thread:"
    assert shown.splitlines()[-1] == f"total {turns} wavefronts, {least} at the least"
    assert (turns > least) == (not swizzle)


PICTURES = (
    spatial(8, 4) * local(1, 2), column_spatial(2, 3), local(3), spatial(),
    spatial(2, 2) * spatial(8, 4), reduce(spatial(8, 4) * local(2, 2), (1,)), replicate(2, 3),
    spatial(2, 1, 2) * local(1, 2, 3), spatial(2, 2, 1, 2),
)  # fmt: skip
INSIDE = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("layout", PICTURES, ids=range(len(PICTURES)))
def test_a_picture_has_a_cell_an_element_with_all_its_holders(layout: Layout) -> None:
    drawing = xml.fromstring(svg(layout))
    cells = drawing.findall(f"{INSIDE}g")
    told = [cell.findtext(f"{INSIDE}title") for cell in cells]
    assert told == [
        f"{index} in "
        + ", ".join(
            f"{t}:{r}"
            for t, r in product(range(layout.threads), range(layout.registers))
            if layout(t, r) == index
        )
        for index in product(*map(range, layout.shape))
    ]
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    corners = [
        (float(rect.get("x")), float(rect.get("y"))) for rect in drawing.iter(f"{INSIDE}rect")
    ]
    assert len(set(corners)) == len(cells)
    assert all(0 < x < width and 0 < y < height for x, y in corners)
    for cell in cells:
        first = re.search(r"in (\d+):", cell.findtext(f"{INSIDE}title"))[1]
        assert cell.findtext(f"{INSIDE}text").startswith(first)
        fill = f"#{''.join(f'{c:02x}' for c in colour_of(layout, int(first)))}"
        assert cell.find(f"{INSIDE}rect").get("fill") == fill
    assert svg(layout) == svg(layout)


def test_replicas_are_named_in_a_cell() -> None:
    def labels(layout: Layout) -> list[str]:
        return [
            cell.findtext(f"{INSIDE}text")
            for cell in xml.fromstring(svg(layout)).iter(f"{INSIDE}g")
        ]

    assert labels(replicate(3, 1) * local(2)) == ["0,1,2:0", "0,1,2:1"]
    assert labels(replicate(32, 1)) == ["0,1,2,...31:0"]
    assert holders(replicate(2, 1) * spatial(2)) == {(0,): [(0, 0), (2, 0)], (1,): [(1, 0), (3, 0)]}


def test_colours_are_told_apart_by_lightness_alone_and_carry_readable_text() -> None:
    ramp = [shade(k / 31) for k in range(32)]
    lights = [luminance(colour) for colour in ramp]
    assert all(b - a > 0.002 for a, b in pairwise(lights))
    assert (ramp[0], ramp[-1]) == (RAMP[0], RAMP[-1])
    assert luminance((0, 0, 0)) == 0 and luminance((255, 255, 255)) == pytest.approx(1)
    for colour, light in zip(ramp, lights, strict=True):
        text = 1.0 if ink(colour) == "#ffffff" else 0.0
        contrast = (max(light, text) + 0.05) / (min(light, text) + 0.05)
        assert contrast >= 4.5  # WCAG 2, level AA


def test_a_picture_is_written(tmp_path: Path) -> None:
    file = tmp_path / "layout.svg"
    assert ask("layout", "spatial(8, 4)", "--svg", str(file)).startswith(str(file))
    assert file.read_text() == svg(spatial(8, 4))
    with pytest.raises(TilusError, match="cannot write"):
        ask("layout", "spatial(8, 4)", f"--svg={tmp_path / 'no' / 'folder'}")


def test_every_format_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sass, "found", lambda: None)
    head, *lines = describe_dtypes("sm_90").splitlines()
    assert [line.split()[0] for line in lines[:-2]] == [t.name for t in ALL]
    f6 = next(line for line in lines if line.startswith("float6_e3m2"))
    assert f6.split()[1:] == ["f6e3m2", "6", "-28", "28", "floats_to_f16", "floats_to_bf16"]
    assert head.split()[-1] == "cost" and "not counted, as that needs nvdisasm" in lines[-1]


@needs_disassembler
def test_costs_are_those_counted_by_hand() -> None:
    """Eight 4-bit integers: four and-xors, four subtractions, one shift by 8. Four bytes: two of
    each (the shift once). Four e5m2: their bytes are the high ones of float16; where the chip
    converts two at once, two permutes bring them together first."""
    pairs = [(dtype("u4"), f16), (dtype("i8"), f16), (dtype("f8e5m2"), f16)]
    assert list(costs(pairs, "sm_80").values()) == [9 / 8, 5 / 4, 5 / 4]
    assert list(costs(pairs, "sm_90").values()) == [9 / 8, 5 / 4, 1]


def test_the_way_of_a_cast_is_that_of_the_generated_text() -> None:
    def ways(name: str) -> tuple[str, str]:
        return way(dtype(name), f16, "sm_80"), way(dtype(name), bf16, "sm_80")

    assert ways("u4") == ("integers_to_f16", "integers_to_bf16")
    assert ways("f8e6m1") == ("floats_through_bf16", "floats_to_bf16")
    assert ways("f32") == ("f32_to_f16_pair", "f32_to_bf16_pair")
    assert ways("i16") == ("one by one", "one by one")
    assert ways("i64") == ("", "")


def test_moves_are_no_work() -> None:
    code = ["LDC R1, c[0x0][0x28]", "@P0 LDG.E.128 R4, [R2]", "@!P0 PRMT R1, R2, 0x5410, R3",
            "STG.E [R2], R4", "HADD2 R1, R2, R3", "EXIT", "BRA 0x10", "NOP"]  # fmt: skip
    assert [operation(line) for line in code[1:4]] == ["LDG.E.128", "PRMT", "STG.E"]
    assert work(code) == 4


@pytest.mark.parametrize("t", [t for t in ALL if t.bits <= 8], ids=str)
def test_every_code_of_a_format_is_shown(t: DType) -> None:
    shown = ask("format", t.short)
    _, _, head, *lines = shown.splitlines()
    place, end = head.index("bits"), head.index("value")
    assert [int(line[:place]) for line in lines] == list(range(1 << t.bits))
    fields = [line[place:end].split() for line in lines]
    assert [int("".join(parts), 2) for parts in fields] == list(range(1 << t.bits))
    values = np.array([float(line[end:].split()[0]) for line in lines])
    np.testing.assert_array_equal(values, t.decode(np.arange(1 << t.bits)))
    marks = [" ".join(line[end:].split()[1:]) for line in lines]
    wanted = [""] * len(lines)
    if t.kind == "float":
        sizes = [1, t.exponent, t.mantissa] if t.mantissa else [1, t.exponent]
        assert [[len(part) for part in parts] for parts in fields] == [sizes] * len(lines)
        smallest = 2.0 ** (1 - t.bias)
        wanted = [
            "" if v == 0 or smallest <= abs(v) < np.inf else
            "subnormal" if abs(v) < smallest else "special" for v in values
        ]  # fmt: skip
    assert marks == wanted


def test_formats_have_several_names() -> None:
    assert ask("format e3m2") == ask("format f6e3m2") == ask("dtypes float6_e3m2")
    head = "float6_e3m2: 1 sign, 3 exponent and 2 mantissa bits, bias 3, -28 to 28\n"
    assert ask("format e3m2").startswith(head)


def test_a_kernel_shows_its_program_text_and_resources() -> None:
    shown = ask("kernel quantized_matmul b_dtype=u2 zeros=true stages=3")
    for part in (
        "def quantized_matmul_u2(",
        "KERNEL(128, 2) tilus_",
        "registers a thread, 0 bytes",
    ):
        assert part in shown


def test_a_kernel_shows_one_stage() -> None:
    assert ask("kernel streaming_read --stage ir") == to_text(streaming_read.program())
    assert ask("kernel streaming_read --stage=cuda").startswith('#include "tilus.cuh"')
    assert ".target sm_80" in ask("kernel streaming_read --stage ptx --arch sm_80")
    assert "blocks a multiprocessor of sm_89" in ask("kernel streaming_read --arch sm_89")


def test_a_file_is_a_kernel_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from tilus.kernels.streaming_read import program")
    assert ask(f"kernel {file} --stage ir") == ask("kernel streaming_read --stage ir")
    file.write_text("programme = 3")
    with pytest.raises(TilusError, match=r"mine.py has no function program\(\)"):
        ask(f"kernel {file}")


@needs_disassembler
def test_a_kernel_shows_the_code_that_the_chip_runs() -> None:
    code = sass.functions(ask("kernel streaming_read --stage sass"))["tilus_streaming_read"]
    assert {"LDG", "STG", "LOP3"} <= {operation(line).split(".")[0] for line in code}


def test_every_variable_is_listed() -> None:
    lines = ask("env").splitlines()[1:]
    assert [line.split()[0] for line in lines] == [v.name for v in VARIABLES]


WRONG = [
    ("", "cannot show nothing: there are isa, layout, shared"),
    ("fly", "cannot show fly"),
    ("isa fly", "no instruction 'fly': there are view_global"),
    ("layout spatial(8", "not a layout"),
    ("layout __import__('os')", "not a layout"),
    ("layout 3*4", "write e.g. spatial"),
    ("layout spatial(2.5)", "not a layout"),
    ("layout row_major(8,4)", "there are local, spatial"),
    ("layout reduce(3)", "write e.g. spatial"),
    ("shared spatial(8,4)", "there are row_major, column_major"),
    ("shared row_major(16,64).swizzle(3,3,3)", "some share an offset"),
    ("shared row_major(8,4) --layout spatial(8,4) --dtype u4", "uint4 has no byte address"),
    ("shared row_major(8,4) --svg x", "no option --svg of shared: there are --dtype, --layout"),
    ("layout spatial(8,4) --svg", "--svg needs a value"),
    ("--svg x layout spatial(8,4)", "no option --svg"),
    ("dtypes --arch sm_70", "cannot compile for 'sm_70'"),
    ("format e9m9", "no format 'e9m9': there are u1"),
    ("format f16", "has 65536 codes"),
    ("kernel fast", "no kernel 'fast' in the library: there are canary, quantized_matmul"),
    ("kernel quantized_matmul zeros", "write KEY=VALUE"),
    ("kernel streaming_read depth=3", "unexpected keyword argument 'depth'"),
    ("kernel streaming_read --stage asm", "no stage 'asm': there are ir, cuda, ptx, sass"),
]


@pytest.mark.parametrize(("question", "says"), WRONG)
def test_a_question_that_makes_no_sense_gets_a_line(
    question: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect.main(question.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and says in told.err


def test_help_tells_every_question() -> None:
    for word in ("isa", "layout", "shared", "dtypes", "format", "kernel", "env"):
        assert f"tilus inspect {word}" in ask("--help")


@pytest.mark.parametrize("command", [["tilus.inspect"], ["tilus", "inspect"]])
def test_the_command_prints_and_says_2_for_nonsense(command: list[str]) -> None:
    run = [sys.executable, "-m", *command]
    good = subprocess.run([*run, "layout", "local(2)"], capture_output=True, text=True, cwd=ROOT,
                          check=False)  # fmt: skip
    assert good.returncode == 0 and good.stdout.endswith("\n\n0:0 0:1\n") and not good.stderr
    bad = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=False)
    assert bad.returncode == 2 and not bad.stdout and bad.stderr.count("\n") == 1


def test_the_page_on_looking_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "looking.md"
    failures, examples = doctest.testfile(str(page), module_relative=False)
    assert failures == 0 and examples > 5
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    command = re.compile(r"^\$ tilus inspect (.*)\n((?:[^$].*\n|\n)*)", re.MULTILINE)
    commands = command.findall("".join(blocks))
    assert len(commands) == sum(block.count("$ ") for block in blocks) > 6
    for question, wanted in commands:
        shown = inspect.answer(shlex.split(question)) + "\n"
        same = doctest.OutputChecker().check_output(wanted, shown, doctest.ELLIPSIS)
        assert same, f"{question}\n{shown}"


def test_who_reads_may_stop_early() -> None:
    run = subprocess.Popen([sys.executable, "-m", "tilus", "inspect", "isa"], cwd=ROOT,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    run.stdout.close()
    assert run.communicate()[1] == b"" and run.returncode == 0


def test_the_command_is_installed_as_tilus() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"tilus": "tilus.__main__:main"}
