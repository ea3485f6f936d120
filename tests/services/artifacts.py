"""An artifact for tests of the store, and what may happen to its bytes."""

import os
import time

from services.messages import KernelSpec, Manifest, digest

SPEC = KernelSpec(executor="tilus", kernel="copy", parameters={"n": 1}, arch="sm_90")
KEY = digest(b"one kernel")
FILES = {"kernel.cubin": bytes(range(256)) * 64, "source.cu": b"__global__ void f() {}\n"}


def manifest(key=KEY, **changes):
    made = Manifest(key=key, spec=SPEC, facts={"threads": 128}, built_at="2026-01-01T00:00:00Z")
    return made.model_copy(update=changes)


def key_of(number):
    return digest(f"kernel {number}".encode())


def overwrite(path, content):
    path.chmod(0o644)
    path.write_bytes(content)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def age(path, seconds):
    """As if it had been used or written so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
