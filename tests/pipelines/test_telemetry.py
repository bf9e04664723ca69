"""What a run exports is what its report, the server and the source say."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from qdrant_client import QdrantClient

from pipelines import Chunk, ChunkingConfig, Document, RejectedDocument, ingest, open_collection
from pipelines.encoding import encode_chunks
from pipelines.errors import DeletionGuardError, StoreError, StoreUnavailableError
from pipelines.retrying import RetryPolicy
from pipelines.run_context import current_run
from pipelines.store import open_store
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder
from tests.pipelines.listening import Heard, heard
from tests.pipelines.stores import Crash, WatchedClient
from tests.server.double import Double

__all__ = ["heard"]

NAME = "notes"
SMALL = ChunkingConfig(max_tokens=12)


def corpus(count: int = 4, *, word: str = "tells") -> list[Document]:
    return [Document(f"d{n}", f"word{n} {word} of it.\n\nIt has more of {n}.", f"{n}.txt") for n in range(count)]


BROKEN = RejectedDocument("broken", "broken.pdf", "h", "parse", "broken.pdf is no PDF; mend it")


@pytest.fixture
def client() -> QdrantClient:
    return QdrantClient(":memory:")


def test_run_exports_what_its_report_says(client: QdrantClient, heard: Heard) -> None:
    encoder = FakeEncoder(poison="poison")
    poisoned = Document("bad", "some poison here", "bad.txt")
    first = ingest([*corpus(), poisoned, BROKEN], client, NAME, encoder, chunking=SMALL)
    assert first.documents_added == 4
    assert first.documents_quarantined == 2
    assert heard.total("kvembed.documents", kvembed__outcome="added") == 4
    assert heard.total("kvembed.documents", kvembed__outcome="quarantined", kvembed__stage="embed") == 1
    assert heard.total("kvembed.documents", kvembed__outcome="quarantined", kvembed__stage="parse") == 1
    assert heard.total("kvembed.documents.in_quarantine", kvembed__collection=NAME) == 2
    assert heard.total("kvembed.chunks", kvembed__chunk__origin="embedded") == first.chunks_embedded
    assert heard.total("kvembed.tokens", kvembed__collection=NAME) == first.tokens > 0
    assert heard.total("kvembed.device.time") == pytest.approx(first.seconds["embed"], abs=0.02)
    assert heard.total("kvembed.run.duration", kvembed__outcome="quarantined") == 1

    edited = [Document("d0", "word0 says something else.\n\nIt has more of 0.", "0.txt")]
    moved = [Document("elsewhere", corpus()[1].text, "1.txt")]
    second = ingest([*edited, *moved, *corpus()[2:3]], client, NAME, encoder, chunking=SMALL, delete="all")
    assert (second.documents_changed, second.documents_moved, second.documents_deleted) == (1, 1, 1)
    assert heard.total("kvembed.documents", kvembed__outcome="changed") == 1
    assert heard.total("kvembed.documents", kvembed__outcome="moved") == 1
    assert heard.total("kvembed.documents", kvembed__outcome="deleted") == 1
    assert heard.total("kvembed.documents", kvembed__outcome="unchanged") == second.documents_unchanged == 1
    assert heard.total("kvembed.chunks", kvembed__chunk__origin="reused") == second.chunks_reused > 0
    assert heard.total("kvembed.tokens") == first.tokens + second.tokens
    assert heard.total("kvembed.documents.in_quarantine") == 0


def test_run_spans_are_one_trace_with_its_stages(client: QdrantClient, heard: Heard) -> None:
    ingest(corpus(), client, NAME, FakeEncoder(), chunking=SMALL)
    ingest(corpus(), client, NAME, FakeEncoder(FakeConfig(prefix_bias=2.0)), chunking=SMALL)
    runs = heard.spans("kvembed.index")
    assert [run.attributes["kvembed.outcome"] for run in runs if run.attributes] == ["done", "done"]
    assert len({run.attributes["kvembed.run.id"] for run in runs if run.attributes}) == 2
    rebuild = runs[1]
    stages = [span.name for span in heard.spans() if span.parent and span.parent.span_id == rebuild.context.span_id]
    assert [name for name in stages if name.startswith("kvembed.")] == [
        "kvembed.plan",
        "kvembed.prepare",
        "kvembed.write",
        "kvembed.verify",
    ]
    assert {span.context.trace_id for span in heard.spans()} >= {run.context.trace_id for run in runs}
    (encoding,) = [
        span
        for span in heard.spans("embeddings fake/hashed-words")
        if span.context.trace_id == rebuild.context.trace_id and span.attributes
    ]
    assert encoding.attributes["gen_ai.operation.name"] == "embeddings"
    assert encoding.attributes["gen_ai.usage.input_tokens"] == rebuild.attributes["kvembed.tokens"]
    assert encoding.attributes["gen_ai.embeddings.dimension.count"] == FakeEncoder.dimension


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_every_request_is_measured_and_every_retry_counted(heard: Heard, grpc: bool) -> None:
    """The server counts too: as many requests of each kind as it was asked, those it refused to answer included."""
    with Double() as double, double.store(grpc=grpc) as store:
        double.faults.every("unavailable", among="writes")
        ingest(corpus(), store, NAME, FakeEncoder(), chunking=SMALL)
        asked = Counter(call.method for call in double.calls)
    for method, count in asked.items():
        assert heard.total("db.client.operation.duration", db__operation__name=method) == count, method
    failed = heard.total("db.client.operation.duration", error__type="StoreUnavailableError")
    assert heard.total("kvembed.store.retries", db__system__name="qdrant") == failed > 5
    upserts = [span for span in heard.spans() if span.name.startswith(f"upsert {NAME}--")]
    assert {span.kind for span in upserts} == {SpanKind.CLIENT}
    assert {span.status.status_code for span in upserts} == {StatusCode.ERROR, StatusCode.UNSET}
    assert all(span.attributes["db.collection.name"] == span.name.split()[1] for span in upserts if span.attributes)


def test_failing_run_says_why_and_how_long_ago_the_last_good_one_was(heard: Heard) -> None:
    with Double() as double:
        with double.store(grpc=False) as store:
            ingest(corpus(), store, NAME, FakeEncoder(), chunking=SMALL)
        good = heard.total("kvembed.run.last_success", kvembed__collection=NAME)
        assert good == pytest.approx(time.time(), abs=5)
        with double.store(grpc=False, policy=RetryPolicy(retries=1)) as store:
            double.faults.always("unavailable", method="upsert")
            with pytest.raises(StoreUnavailableError):
                ingest(corpus(word="says"), store, NAME, FakeEncoder(), chunking=SMALL)
    run = heard.spans("kvembed.index")[-1]
    assert run.status.status_code is StatusCode.ERROR
    assert run.attributes
    assert run.attributes["error.type"] == "StoreUnavailableError"
    assert [event.name for event in run.events] == ["exception"]
    failed = {"kvembed__outcome": "failed", "error__type": "StoreUnavailableError"}
    assert heard.total("kvembed.run.duration", **failed) == 1
    assert heard.total("kvembed.run.last_success") == good
    assert heard.total("kvembed.run.lag") == pytest.approx(time.time() - good, abs=0.5)
    assert current_run() is None


def test_failing_run_of_a_new_process_knows_the_last_good_one(client: QdrantClient, heard: Heard) -> None:
    """A scheduler starts a process a night; one that fails at once must still show for how long nothing has worked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.marks.now", lambda: "2026-01-01T00:00:00+00:00")
        patch.setattr("pipelines.telemetry._signals", Heard().signals)  # another process
        ingest(corpus(), client, NAME, FakeEncoder(), chunking=SMALL)
    with pytest.raises(DeletionGuardError):
        ingest([], client, NAME, FakeEncoder(), chunking=SMALL)
    assert heard.total("kvembed.run.last_success", kvembed__collection=NAME) == 1767225600
    assert heard.total("kvembed.run.lag") > 0
    assert heard.total("kvembed.run.duration", kvembed__outcome="failed") == 1


def test_run_that_is_stopped_is_no_failure(heard: Heard) -> None:
    client = WatchedClient()
    client.crash_at = 6
    with pytest.raises(Crash):
        ingest(corpus(), client, NAME, FakeEncoder(), chunking=SMALL)
    assert heard.total("kvembed.run.duration", kvembed__outcome="stopped", error__type="Crash") == 1
    assert heard.span("kvembed.index").status.status_code is StatusCode.ERROR
    assert heard.total("kvembed.run.last_success") == 0


def test_second_run_embeds_nothing_and_is_good(client: QdrantClient, heard: Heard) -> None:
    ingest(corpus(), client, NAME, FakeEncoder(), chunking=SMALL)
    tokens = heard.total("kvembed.tokens")
    ingest(corpus(), client, NAME, FakeEncoder(), chunking=SMALL)
    assert heard.total("kvembed.tokens") == tokens
    assert heard.total("kvembed.run.duration", kvembed__outcome="unchanged") == 1
    assert heard.total("kvembed.documents", kvembed__outcome="unchanged") == 4


def test_question_never_reaches_spans_or_metrics(client: QdrantClient, heard: Heard) -> None:
    ingest(corpus(), client, NAME, FakeEncoder(), chunking=SMALL)
    asked = "what my doctor said"
    with open_collection(client, NAME, encoder=FakeEncoder()) as collection:
        collection.search(asked, 2)
        assert collection.retriever(k=2).invoke(asked)
    assert heard.total("db.client.operation.duration", db__operation__name="query_points") >= 1
    told = [span.to_json() for span in heard.spans()] + [metric.to_json() for metric in heard.metrics().values()]
    assert not any(asked in one for one in told)


def test_work_outside_of_runs_is_counted_for_none(client: QdrantClient, heard: Heard) -> None:
    """Workers of a run are outside of it too, in another process: whoever has the run counts what they did."""
    report = ingest(corpus(), client, NAME, FakeEncoder(), chunking=SMALL)
    with open_collection(client, NAME, encoder=FakeEncoder()) as collection:
        assert collection.verify(full=True).ok
    encode_chunks(FakeEncoder(), [Chunk("d0", 0, "some text", 0, 9, (), "some text")])
    assert heard.total("kvembed.tokens") == report.tokens
    assert len(heard.spans("embeddings fake/hashed-words")) == 2


def test_store_that_refuses_is_measured_with_its_error(client: QdrantClient, heard: Heard) -> None:
    with open_store(client) as store, pytest.raises((StoreError, ValueError)):
        store.call(store.client.count, "nowhere")
    (point,) = heard.metrics()["db.client.operation.duration"].data.data_points
    assert point.count == 1
    assert "error.type" in (point.attributes or {})
    assert list(point.explicit_bounds) == [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0]


def test_telemetry_needs_no_sdk() -> None:
    """The extra is an extra: with OpenTelemetry's API alone, runs are as they were."""
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "import pipelines.telemetry as t\n"
        "with t.indexing('notes', 'docs'), t.stage('plan'), t.store_call(None, print, ()): t.retried()\n"
        "print('fine', [name for name in sys.modules if name.startswith('opentelemetry.sdk.')])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "fine []\n"
