"""GPU architectures: what a program is compiled for, and what an instruction needs.

`sm_89` is the code that every GPU from compute capability 8.9 on runs. A letter behind the number
marks features of that chip alone: code for `sm_90a` runs nowhere else (CUDA programming guide,
"feature availability").
"""

from dataclasses import dataclass

from tilus.errors import TilusError

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120a")


@dataclass(frozen=True)
class Target:
    """One of `ARCHITECTURES`."""

    name: str

    @property
    def number(self) -> int:
        """Ten times the compute capability."""
        return int(self.name.removeprefix("sm_").rstrip("a"))

    @property
    def shared_bytes(self) -> int:
        """The most shared memory of one block (CUDA programming guide, "compute capabilities")."""
        return {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}[self.number] << 10

    def supports(self, needed: str) -> bool:
        """Whether code that needs the architecture `needed` runs here."""
        if needed.endswith("a"):
            return self.name == needed
        return self.number >= Target(needed).number


def target(name: str) -> Target:
    """The target of that name."""
    if name not in ARCHITECTURES:
        raise TilusError(f"cannot compile for {name!r}: there are {', '.join(ARCHITECTURES)}")
    return Target(name)


def specific(name: str) -> str:
    """The architecture with all features of the chip of `name`: sm_90a for sm_90."""
    return f"{name}a" if f"{name}a" in ARCHITECTURES else target(name).name


def runs_on(major: int, minor: int) -> str:
    """The architecture with the most features whose code a GPU of that compute capability runs."""
    number = 10 * major + minor
    exact = [name for name in ARCHITECTURES if name == f"sm_{number}a"]
    older = [
        name
        for name in ARCHITECTURES
        if not name.endswith("a") and Target(name).number // 10 == major
        if Target(name).number <= number
    ]
    if not exact and not older:
        raise TilusError(
            f"no code for a GPU of compute capability {major}.{minor}: there is"
            f" {', '.join(ARCHITECTURES)}"
        )
    return [*older, *exact][-1]


OLDEST = target("sm_80")
DEFAULT = "sm_90"
HOST = "sm_90a"  # what the host prelude can stand for
