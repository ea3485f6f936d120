"""What the README shows works as it stands there."""

import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_kernel_of_the_readme_unpacks_nibbles_and_compiles() -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block
    names: dict = {}
    exec(block[1], names)
    want = np.arange(40)[:, None] >> 4 * np.arange(8) & 15
    np.testing.assert_array_equal(names["out"].reshape(40, 8), want)
    assert names["cubin"][:4] == b"\x7fELF"


def test_the_numbers_of_the_readme_are_those_of_the_records() -> None:
    path = ROOT / "results" / "recorded" / "nvidia-h200" / "figure9.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    shape = {"m": 1, "k": 8192, "n": 57344}
    chosen = [r for r in records if shape.items() <= r.items()]
    assert all(r["commit"].startswith("89425b6") for r in chosen)
    base = next(r["latency_ms"] for r in chosen if r["executor"] == "torch-f16")
    rows = [
        f"| {r['b_dtype']} | {r['executor']} | {1e3 * r['latency_ms']:.1f}"
        f" | {base / r['latency_ms']:.2f} | {r['latency_ms'] / r['floor_ms']:.2f} |"
        for r in chosen
    ]
    shown = [line for line in README.splitlines() if re.match(r"\| (float|u?int)", line)]
    assert sorted(shown) == sorted(rows)


def test_every_room_of_the_house_is_there() -> None:
    house = README.split("## The house")[1].split("Imports run")[0]
    for folder, names in (("tilus", house), ("services", house)):
        for path in sorted((ROOT / folder).iterdir()):
            known = path.name in names or path.name.startswith(("_", "."))
            assert known or path.name in ("errors.py", "config.py", "gpu.py", "runs.py",
                                          "settings.py", "revision.py"), path  # fmt: skip
