"""Nothing is reported to anyone, and no notice about reporting is printed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path


def printed_on_a_terminal(code: str, home: Path) -> str:
    """Run code as a new user would at a terminal, and return what appears there."""
    ours, theirs = pty.openpty()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "VIRTUAL_ENV") if name in os.environ}
    command = [sys.executable, "-W", "ignore", "-c", code]
    root = Path(__file__).parents[2]
    subprocess.run(
        command, env={**kept, "HOME": str(home)}, stdin=theirs, stdout=theirs, stderr=theirs, cwd=root, check=True
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        return os.read(ours, 65536).decode()
    except OSError:  # nothing was written
        return ""
    finally:
        os.close(ours)


def test_import_flows_on_a_terminal_declines_tracking_before_prefect_asks(tmp_path):
    """Premise: `import prefect` alone prints its notice here, so the silence is ours."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert "anonymous usage data" in printed_on_a_terminal("import prefect", tmp_path / "a")
    assert printed_on_a_terminal("import flows", tmp_path / "b") == ""
