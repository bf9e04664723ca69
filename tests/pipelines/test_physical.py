"""Names are checked before the network, and ours are told from theirs."""

from __future__ import annotations

import pytest

from pipelines.errors import InvalidCollectionNameError
from pipelines.physical import check_name, ledger_name, physical_name


@pytest.mark.parametrize("name", ["handbook", "a", "Übersicht 2026", "docs_v1.2-beta", "x" * 200, "a--b"])
def test_check_name_usable_name_passes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "it is empty"),
        ("..", "folder's name"),
        ("a/b", "contains '/'"),
        ("a\\b", "contains"),
        ("a\x00b", "contains"),
        ("a\x1fb", "contains"),
        ("a\nb", "contains"),
        ("what?", r"contains '\?'"),
        (" a", "white space"),
        ("a.", "ends with a dot"),
        ("x" * 201, "longer than 200 bytes"),
        ("é" * 101, "longer than 200 bytes"),
        ("a--ledger", "kvembed gives"),
        (physical_name("a", "f"), "kvembed gives"),
    ],
)
def test_check_name_refused_name_says_why_and_what_to_use(name: str, said: str) -> None:
    with pytest.raises(InvalidCollectionNameError, match=f"{said}.*use letters, digits"):
        check_name(name)


def test_physical_name_is_deterministic() -> None:
    found = physical_name("a--b", "fingerprint", 3)
    assert found == physical_name("a--b", "fingerprint", 3)
    assert found != physical_name("a--b", "other", 3)
    assert len(ledger_name(physical_name("x" * 200, "f", 10**6)).encode()) <= 255
