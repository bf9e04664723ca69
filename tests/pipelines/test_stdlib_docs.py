"""The demonstration's corpus: documentation strings, laid out, without importing anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import SourceError
from pipelines.parsing import parse
from pipelines.stdlib_docs import module_text, stdlib_documents, write_stdlib_documents

MODULE = b'''
"""Read and write rolled files.

Second paragraph.
# not a heading
"""
raise RuntimeError("importing this module must not happen")

def open(name, mode="r", *, _secret=None, level: int = 9):
    """Open a rolled file.

    Details.
    """

def _hidden():
    """Nobody sees this."""

class Roll(object):
    """A rolled file."""

    def unroll(self, *parts):
        """Unroll it."""

    def undocumented(self): ...
'''


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "lib"
    for name in ("rolls.py", "pack/__init__.py", "pack/inner.py", "_private.py", "test/test_rolls.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MODULE)
    (root / "silent.py").write_text("x = 1\n")
    (root / "broken.py").write_text("def (:\n")
    return root


def test_module_text_has_headings_for_what_is_public():
    text = module_text("rolls", MODULE)
    assert text.startswith("# rolls\n\nRead and write rolled files.\n\nSecond paragraph.\n\\# not a heading\n")
    assert "\n## open(name, mode, level)\n\nOpen a rolled file.\n\nDetails.\n" in text
    assert "\n## class Roll\n\nA rolled file.\n" in text
    assert "\n### Roll.unroll()\n\nUnroll it.\n" in text
    assert "hidden" not in text
    assert "undocumented" not in text
    parsed = parse(text.encode(), ".md")
    assert [heading.title for heading in parsed.headings] == [
        "rolls",
        "open(name, mode, level)",
        "class Roll",
        "Roll.unroll()",
    ]


def test_module_text_of_a_long_module_ends_between_entries():
    code = '"""Introduction."""\n' + "".join(f'def f{n}():\n    """{"word " * 50}{n}."""\n' for n in range(100))
    text = module_text("long", code.encode())
    assert 2500 < len(text) <= 3010
    assert text.rstrip().endswith(".")


def test_stdlib_documents_are_the_public_documented_modules(library: Path):
    assert [name for name, _ in stdlib_documents(library)] == ["pack", "pack.inner", "rolls"]


def test_stdlib_documents_without_sources_say_so(tmp_path: Path):
    with pytest.raises(SourceError, match="no Python sources"):
        list(stdlib_documents(tmp_path))


def test_write_stdlib_documents_replaces_only_what_differs(library: Path, tmp_path: Path):
    folder = tmp_path / "documents"
    assert write_stdlib_documents(folder, library) == 3
    before = (folder / "rolls.md").stat().st_mtime_ns
    (folder / "pack.md").write_text("stale")
    (folder / "gone.md").write_text("a module of another Python")
    write_stdlib_documents(folder, library)
    assert (folder / "rolls.md").stat().st_mtime_ns == before
    assert (folder / "pack.md").read_text().startswith("# pack\n")
    assert sorted(path.name for path in folder.iterdir()) == ["pack.inner.md", "pack.md", "rolls.md"]
