"""One Prefect API for all in-process runs: starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import temporary_settings

from flows.local_api import prefect_api


@pytest.fixture(scope="session")
def run_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the runs of this session are recorded in."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def api(run_history: Path) -> Iterator[str]:
    """URL of the API that flows of this session report to."""
    with temporary_settings({"home": run_history}), prefect_api() as url:
        yield url
