"""The canary on the GPU: it passes there, and is told from one that does not."""

import subprocess
import sys

import numpy as np
import pytest

from services.executors import EXECUTORS
from services.gpu import devices
from services.revision import Revision
from services.runner import canary
from services.settings import ROOT
from services.store import Folder
from tests.gpu.device import run_on_gpu
from tilus.kernels import canary as kernel

AT = Revision("c0ffee", dirty=False)


def test_every_bit_is_right() -> None:
    words = np.random.default_rng(1).integers(0, 1 << 32, 64 * kernel.WORDS, dtype=np.uint32)
    out = np.zeros_like(words)
    run_on_gpu(kernel.program(), {"x": words, "out": out, "blocks": 64})
    np.testing.assert_array_equal(out, kernel.expected(words))


def test_a_gpu_that_works_passes_and_a_wrong_answer_does_not(tmp_path) -> None:
    """In a process that has no context, as a runner is."""
    [device, *_] = devices()
    asked = f"canary.fault({device.uuid!r}, Folder(Path({str(tmp_path)!r})), Revision('c', False))"
    code = (
        "from pathlib import Path\n"
        "from services.revision import Revision\n"
        "from services.runner import canary\n"
        "from services.store import Folder\n"
        "from tilus.kernels import canary as kernel\n"
        f"print({asked})\n"
        "kernel.ADDEND = 0  # what it should give, not what it gives\n"
        f"print({asked})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    well, wrong = done.stdout.splitlines()
    assert well == "None" and "wrong words" in wrong


@pytest.mark.parametrize("name", ["canary", "streaming_read"])
def test_a_library_kernel_is_built_once(name, tmp_path) -> None:
    [device, *_] = devices()
    store = Folder(tmp_path)
    built = canary.library_kernel(name, device.uuid, store, AT)
    assert EXECUTORS["tilus"].key(canary.library_spec(name, device.arch)) in store.every_key()
    assert canary.library_kernel(name, device.uuid, store, AT) == built
