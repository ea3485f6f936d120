"""These tests need an NVIDIA GPU and PyTorch; elsewhere they are skipped, and count as skipped."""

from importlib.util import find_spec

import pytest


def reason() -> str | None:
    """Why these tests cannot run here."""
    if find_spec("torch") is None:
        return "needs PyTorch, which is not installed"
    import torch

    return None if torch.cuda.is_available() else "needs an NVIDIA GPU, and none is visible"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = reason()
    for item in items:
        if "tests/gpu/" in item.nodeid and why:
            item.add_marker(pytest.mark.skip(reason=why))
