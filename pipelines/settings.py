"""What the environment says; the only reader of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import TerminalError

_EXPORTING = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_CONFIG_FILE",
)


class Settings(BaseSettings):
    """Values from `KVEMBED_*` variables, over the defaults; arguments of a call win over both."""

    model_config = SettingsConfigDict(env_prefix="KVEMBED_", frozen=True)

    store: str = "./.kvembed"
    """Folder of the embedded store, or URL of a Qdrant server."""
    model: str = "kvembed/demo"
    """Model that a new collection is filled with."""
    qdrant_url: str | None = None
    """URL of a Qdrant server; wins over `store`."""
    qdrant_api_key: SecretStr | None = None
    """Key of that server; never logged, never stored."""
    qdrant_timeout: int = Field(default=60, ge=1)
    """Seconds until a call to the server counts as failed."""
    qdrant_prefer_grpc: bool = True
    """Speak gRPC where the server's gRPC port answers, REST otherwise."""
    qdrant_grpc_port: int | None = Field(default=None, ge=1, le=65535)
    """gRPC port of that server; without one 6334 beside a REST port of 6333, and no gRPC beside any other."""
    qdrant_retries: int = Field(default=12, ge=0)
    """How often a call that the server did not answer is made again, at most."""
    qdrant_retry_seconds: float = Field(default=120.0, ge=0)
    """Seconds after which no such call is made again."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """How long a writer that cannot be heard keeps the others out of its collection."""
    log_format: Literal["text", "json"] = "text"
    """How the command line logs to stderr: for a person, or one JSON object a line."""
    cache_dir: Path = Path.home() / ".cache" / "kvembed"
    """Folder of this user's registry of models by hash."""

    def default_store(self) -> str:
        """Return the store that is meant when none is named."""
        return self.qdrant_url or self.store


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        TerminalError: a variable has a value that is not legal.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "_".join(("kvembed", *map(str, first["loc"]))).upper()
        raise TerminalError(f"{name} is {first['input']!r}: {first['msg']}; correct or unset it") from error


def telemetry_is_wanted() -> bool:
    """Tell whether OpenTelemetry's own variables ask for an exporter."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return any(os.environ.get(name, "").strip() for name in _EXPORTING)


def name_service() -> None:
    """Name the service that spans and metrics come from, where OpenTelemetry's variables do not."""
    if "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", "kvembed")


def decline_tracking() -> None:
    """Say DO_NOT_TRACK to libraries that look for it as they are imported; the user's own word stands."""
    os.environ.setdefault("DO_NOT_TRACK", "1")


@contextmanager
def provided_key(key: str | None) -> Iterator[None]:
    """Let the key of a Qdrant server come from elsewhere, for this process and those that it starts meanwhile.

    Args:
        key: Wins over `KVEMBED_QDRANT_API_KEY`; None leaves that as it is.
    """
    name = "KVEMBED_QDRANT_API_KEY"
    before = os.environ.get(name)
    if key is not None:
        os.environ[name] = key
    try:
        yield
    finally:
        if key is not None and before is None:
            os.environ.pop(name, None)
        elif key is not None and before is not None:
            os.environ[name] = before


def decline_ray_statistics() -> None:
    """Let Ray send no usage statistics, unless the user said something else; read when Ray starts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process to be started: this one's, with changes."""
    return {**os.environ, **changes}


def visible_gpus(count: int) -> list[str]:
    """Return what `CUDA_VISIBLE_DEVICES` calls each of the GPUs that this process sees.

    Args:
        count: How many that are.
    """
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def cpu_threads() -> int:
    """Return how many threads the processes of one run may have together: `OMP_NUM_THREADS`, else one per CPU."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
