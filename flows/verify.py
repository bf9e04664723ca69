"""Verification as a Prefect flow: the same check as on the command line, and a failed run where something is wrong."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt

import pipelines
from flows.artifacts import ProgressArtifact, publish_figures
from flows.index import Given
from flows.local_api import local_flow
from flows.secrets import store_key
from flows.transient import retried
from pipelines.errors import TerminalError
from pipelines.verification import VerifyReport


@local_flow(name="verify-collection", run_name="verify-{name}")
def verify_collection(
    name: Given,
    store: str | None = None,
    model: str | None = None,
    full: bool = False,
    sample: NonNegativeInt = 64,
    repair: bool = False,
    source: str | None = None,
    wait: NonNegativeFloat = 0.0,
) -> VerifyReport:
    """Check that a collection is what its ledger and its encoder say; the run fails where it is not.

    Args:
        name: Collection.
        store: Folder of an embedded store, or URL of a Qdrant server; null takes that of the worker's environment.
        model: Where the model lies, if it was moved.
        full: Compare every vector with a new one of its text; takes as long as indexing did.
        sample: Otherwise so many.
        repair: Mend what can be mended.
        source: What the collection was indexed from, for documents that a repair has to write again.
        wait: Seconds to wait for another writer.
    """
    report = check(name, store, model, full, sample, repair, source, wait)
    publish_figures("verify", name, report.to_dict(), f"Last check of collection {name}")
    if not report.ok:
        raise TerminalError(
            f"collection {name!r} is not sound: {'; '.join(report.problems)}; {'; '.join(report.remedies)}"
        )
    return report


@retried("check")
def check(
    name: str,
    store: str | None,
    model: str | None,
    full: bool,
    sample: int,
    repair: bool,
    source: str | None,
    wait: float,
) -> VerifyReport:
    """Compare manifest, ledger, points and vectors, and mend what can be mended if asked to."""
    with store_key():
        return pipelines.verify(
            store,
            name,
            model=model,
            full=full,
            sample=sample,
            repair=repair,
            source=source,
            wait=wait,
            progress=ProgressArtifact(name),
        )
