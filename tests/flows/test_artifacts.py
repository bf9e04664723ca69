"""What a run shows in Prefect: it is read by people, made of texts that nobody here wrote."""

from __future__ import annotations

import httpx
import pytest
from prefect.logging import disable_run_logger

from flows import artifacts
from flows.artifacts import MOST, ProgressArtifact, artifact_key, publish_figures, publish_quarantine
from pipelines.report import QuarantinedDocument


@pytest.fixture
def shown(monkeypatch):
    """Collect what would go to Prefect."""
    calls = []
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda *given: calls.append(given))
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *given: calls.append(("made", *given)) or "id")
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda *given: calls.append(("moved", *given)))
    return calls


def bad(document_id, source="nowhere", reason="no text"):
    return QuarantinedDocument(document_id, source, "0123456789abcdef", "parse", reason)


def test_publish_quarantine_links_each_document_to_where_it_lies(shown, tmp_path):
    path = tmp_path / "a (1) [b].txt"
    path.write_text("text")
    publish_quarantine(
        "notes", [bad("here", path.name), bad("there", "https://x.org/a b"), bad("gone", "gone.txt")], str(tmp_path)
    )
    ((rows, key, description),) = shown
    assert [row["document"] for row in rows] == [f"[here](<{path.as_uri()}>)", "[there](<https://x.org/a b>)", "gone"]
    assert key == "quarantine-notes"
    assert description.startswith("3 quarantined documents of collection notes; `kvembed status notes --quarantine`")


def test_publish_quarantine_of_many_shows_the_first_and_says_so(shown):
    publish_quarantine("notes", [bad(str(number)) for number in range(MOST + 1)], "docs")
    ((rows, _, description),) = shown
    assert len(rows) == MOST
    assert f"{MOST + 1} quarantined documents of collection notes, the first {MOST};" in description


def test_publish_quarantine_of_none_says_that_there_are_none(shown):
    """The last artifact of a key is what is shown: without a new one, yesterday's trouble would stay there."""
    publish_quarantine("notes", [], "docs")
    assert shown[0][0] == []
    assert shown[0][2].startswith("0 quarantined documents")


def test_publish_quarantine_text_of_a_document_is_no_markup(shown):
    """Prefect's pages show a cell as Markdown: a document must not write a link, or HTML, into them."""
    publish_quarantine("n", [bad("[x](http://evil)", reason="<img src=x>\n| `rm`")], "docs")
    ((row,), *_) = shown[0]
    assert row["document"] == r"\[x\](http://evil)"
    assert row["reason"] == r"\<img src=x\> | \`rm\`"


def test_publish_figures_has_a_row_for_each_and_for_each_of_a_record(shown):
    report = {"seconds": {"embed": 1.23456}, "layers": [2, 3], "bad": [{"id": "x"}], "rebuilt": False, "tokens": 7}
    publish_figures("index", "My Notes!", report, "last")
    rows, key, _ = shown[0]
    assert {row["figure"]: row["value"] for row in rows} == {
        "seconds: embed": 1.235,
        "layers": "2, 3",
        "bad": 1,
        "rebuilt": "False",
        "tokens": 7,
    }
    assert key == artifact_key("index", "My Notes!") == "index-my-notes"


def test_progress_artifact_shows_each_stage_and_not_each_document(shown):
    seen = []
    progress = ProgressArtifact("notes", lambda *step: seen.append(step))
    for done in range(1000):
        progress("embed", done, 1000)
    progress("verify", 0, None)
    progress.finish()
    assert len(seen) == 1001, "the terminal is told everything"
    assert shown[0] == ("made", 0.0, "progress-notes", "embed 0 of 1,000")
    assert shown[-2:] == [("moved", "id", 0.0, "verify"), ("moved", "id", 100.0, "done")]
    assert len(shown) == 3


def test_progress_artifact_moves_on_when_its_time_has_come(shown, monkeypatch):
    monkeypatch.setattr(artifacts, "EVERY", 0.0)
    progress = ProgressArtifact("notes")
    progress("embed", 0, 4)
    progress("embed", 1, 4)
    assert shown[-1] == ("moved", "id", 25.0, "embed 1 of 4")


def test_progress_artifact_that_cannot_be_shown_costs_no_run(monkeypatch):
    def refuse(*_: object) -> None:
        raise httpx.ConnectError("no API")

    monkeypatch.setattr(artifacts, "create_progress_artifact", refuse)
    with disable_run_logger():
        ProgressArtifact("notes")("embed", 1, 2)
