"""Running the command line inside the test, as the console script would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main


@dataclass(frozen=True)
class Outcome:
    """What one command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as the one JSON document that it must be."""
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def kvembed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run `kvembed` with arguments, in an empty folder and with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVEMBED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("KVEMBED_STORE", "KVEMBED_MODEL", "KVEMBED_QDRANT_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(str(leaving.value.code or 0)), captured.out, captured.err)

    return run


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    """Folder of three small documents."""
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "bread.md").write_text("# Bread\n\nBread is baked from flour, water and salt.\n")
    (folder / "ice.md").write_text("# Ice\n\nIce melts in the sun.\n")
    (folder / "ships.txt").write_text("Ships float because they displace water.\n")
    return folder
