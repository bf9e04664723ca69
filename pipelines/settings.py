"""What the environment says; the only reader of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    cache_dir: Path = Path.home() / ".cache" / "kvembed"
    """Folder of this user's registry of models by hash."""

    def default_store(self) -> str:
        """Return the store that is meant when none is named."""
        return self.qdrant_url or self.store


def load_settings() -> Settings:
    """Read the environment."""
    return Settings()


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
