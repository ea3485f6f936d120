"""The folders that hold the device functions which generated text calls."""

from pathlib import Path

ROOT = Path(__file__).parent.parent / "prelude"
CUDA = (ROOT / "cuda", ROOT / "common")
HOST = (ROOT / "host", ROOT / "common")


def text_of(folders: tuple[Path, ...]) -> str:
    """All the text in `folders`, for keys: it decides what generated text becomes."""
    files = sorted(file for folder in folders for file in folder.glob("*.cuh"))
    return "\0".join(f"{file.name}\0{file.read_text()}" for file in files)
