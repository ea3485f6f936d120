"""The store as folders with names that a person reads: `python -m services.driver.shelf`."""

import shutil
from pathlib import Path

from services.messages import KernelSpec
from services.settings import load
from services.store import Folder, open_store


def main() -> None:
    """Lay the store out beside it and print where."""
    settings = load()
    shelf = settings.state / "shelf"
    lay_out(open_store(settings), shelf)
    print(shelf)


def lay_out(store: Folder, shelf: Path) -> int:
    """Fill `shelf` anew with a folder for each whole kernel; returns how many."""
    shutil.rmtree(shelf, ignore_errors=True)
    shelf.mkdir(parents=True)
    kernels = 0
    for key in store.every_key():
        manifest = store.get_manifest(key)
        if manifest is None or not manifest.files:
            continue
        folder = shelf / title(manifest.spec) / key[:12]
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
        for name in manifest.files:
            (folder / name).write_bytes(store.read(manifest, name))
        kernels += 1
    return kernels


def title(spec: KernelSpec) -> str:
    """A kernel's problem as a folder name."""
    parts = [spec.executor, spec.kernel, spec.arch, str(spec.parameters.get("b_dtype", ""))]
    return "-".join(part for part in parts if part)


if __name__ == "__main__":
    main()
