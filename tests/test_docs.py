"""What the documents say is held by a test names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
REFERENCES = [
    (path.relative_to(ROOT).as_posix(), *found)
    for path in sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
    for found in REFERENCE.findall(path.read_text(encoding="utf-8"))
]


def test_guarantees_name_tests() -> None:
    assert len(REFERENCES) > 10


@pytest.mark.parametrize(("document", "file", "name"), REFERENCES)
def test_reference_in_a_document_is_a_test_that_exists(document: str, file: str, name: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert not name or f"def {name}(" in source, f"{document} names {file}::{name}"
