"""What the README shows works as it stands there."""

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


def test_every_room_of_the_house_is_there() -> None:
    house = README.split("## The house")[1].split("Imports run")[0]
    for folder, names in (("tilus", house), ("services", house)):
        for path in sorted((ROOT / folder).iterdir()):
            known = path.name in names or path.name.startswith(("_", "."))
            assert known or path.name in ("errors.py", "config.py", "gpu.py", "runs.py",
                                          "settings.py", "revision.py", "redis"), path  # fmt: skip
