"""Thin Prefect flows over `pipelines`: retry and record; no logic.

Importing this room declines tracking first: on a terminal, `import prefect` itself would report and print a notice.
"""

from pipelines import settings

settings.decline_tracking()

from flows.index import index_corpus, run_index  # noqa: E402
from flows.reindex import reindex_corpus  # noqa: E402
from flows.verify import verify_collection  # noqa: E402

__all__ = ["index_corpus", "reindex_corpus", "run_index", "verify_collection"]
