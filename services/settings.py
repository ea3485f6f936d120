"""The fleet's configuration: one table, read once; everything else takes arguments."""

import os
from importlib.util import find_spec
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).parent.parent
SECRETS = Path("/run/secrets")
WITHHELD = frozenset({"HF_TOKEN"})


class Settings(BaseSettings):
    """Every knob, its environment variable (TILUS_ + name) and what it does."""

    model_config = SettingsConfigDict(
        env_prefix="TILUS_",
        frozen=True,
        populate_by_name=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    redis_url: str = Field(
        default="",
        validation_alias=AliasChoices("REDIS_URL", "TILUS_REDIS_URL"),
        description="the queue; empty: the driver starts a private one",
    )
    redis_password: SecretStr = Field(
        default=SecretStr(""), description="the queue's password, apart from its address"
    )
    queue_key: SecretStr = Field(
        default=SecretStr(""),
        description="what signs the fleet's work; empty: only for a queue on a private socket",
    )
    state: Path = Field(default=ROOT / ".state", description="runs, logs, locks, the queue's log")
    store: Path = Field(default=ROOT / "cache", description="compiled kernels, by content")
    store_url: str = Field(
        default="",
        validation_alias=AliasChoices("STORE_URL", "TILUS_STORE_URL"),
        description="where the fleet shares kernels, http://, https://, file:// or a folder; "
        "empty: the folder alone, which else is in front of what HTTP serves",
    )
    store_token: SecretStr = Field(
        default=SecretStr(""),
        description="bearer token that writing kernels needs: to STORE_URL, or to this API",
    )
    results: Path = Field(default=ROOT / "results", description="records and figures")
    recorded: Path = Field(
        default=ROOT / "results" / "recorded", description="records that came with the project"
    )
    secrets: Path = Field(
        default=ROOT / "secrets", description="passwords, key and tokens of the containers"
    )
    compilers: int = Field(
        default=len(os.sched_getaffinity(0)), ge=1, description="compile workers, local mode"
    )
    job_seconds: int = Field(default=300, ge=1, description="limit of one compile or check")
    measure_seconds: int = Field(default=1800, ge=1, description="limit of one measurement")
    compile_memory: int = Field(
        default=4 << 30, ge=0, description="bytes that a compile may use, 0: any"
    )
    drain_seconds: float = Field(
        default=15, ge=0, description="how long a worker told to stop waits for the work at hand"
    )
    sm_mhz: int = Field(
        default=0, ge=0, description="the clock that the GPU is locked at, 0: not locked"
    )
    queue_limit: int = Field(default=10_000, ge=1, description="jobs waiting before 429")
    body_limit: int = Field(default=1 << 20, ge=1, description="bytes of a request before 413")
    artifact_limit: int = Field(
        default=64 << 20, ge=1, description="bytes of one stored file before 413"
    )
    store_max_bytes: int = Field(
        default=0,
        ge=0,
        description="what the API keeps of the store, least recently used last; 0: everything",
    )
    store_max_days: float = Field(
        default=0, ge=0, description="after how many days unused an artifact goes, 0: never"
    )
    free_limit: int = Field(
        default=1 << 30,
        ge=0,
        description="bytes free on the store's disk below which nothing new is taken",
    )
    api_port: int = Field(default=0, ge=0, le=65535, description="0: any free port")
    token: SecretStr = Field(
        default=SecretStr(""), description="bearer token that writing needs; empty: loopback only"
    )
    commit: str = Field(default="", description="this tree's commit, where it has no .git")


def load() -> Settings:
    """The settings of this process, from its environment and /run/secrets."""
    return Settings()


def environment(settings: Settings) -> dict[str, str]:
    """The environment for a child process that shall have these settings, without HF_TOKEN."""
    inherited = {name: value for name, value in os.environ.items() if name not in WITHHELD}
    given = {
        f"TILUS_{name.upper()}": str(getattr(settings, name))
        for name in ("state", "store", "results", "recorded", "job_seconds", "measure_seconds")
    }
    fixed = {
        "REDIS_URL": settings.redis_url,
        "TILUS_QUEUE_KEY": settings.queue_key.get_secret_value(),
        "STORE_URL": settings.store_url,
        "TILUS_COMMIT": settings.commit,
        "TILUS_CACHE": "off",  # the store keeps the kernels
        "HUMMING_CACHE_DIR": str(settings.state / "humming" / "cache"),
        "HUMMING_TMP_DIR": str(settings.state / "humming" / "tmp"),
        "LD_LIBRARY_PATH": _libraries(inherited.get("LD_LIBRARY_PATH", "")),
    }
    return inherited | given | fixed


def _libraries(inherited: str) -> str:
    """Where libraries are looked for: last where CUDA's wheels are.

    Humming compiles in a program of its own, whose compiler looks for its parts by bare name.
    """
    spec = find_spec("nvidia")
    roots = (spec.submodule_search_locations or ()) if spec is not None else ()
    found = [str(folder) for folder in (Path(root) / "cu13" / "lib" for root in roots)]
    return ":".join([*filter(None, [inherited]), *found])
