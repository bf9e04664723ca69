"""The constants of docs/scale.md that a machine without a GPU and without a Qdrant can measure.

    python -m benchmarks.scale_measure [--documents 2000] [--texts 400] [--json]

Prints a line per constant, or with --json a document that `python -m benchmarks.scale --measured FILE` reads. Times
are processor seconds of this process, less moved by what else the machine does: what a client spends, not what a
server takes. Bytes are those that the double of the tests receives by gRPC. Documents are texts of made-up words of
about four chunks each, vectors of Qwen3-4B's width made from a hash.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from benchmarks.ingest import server
from kvembed import DEMO_MODEL, EncoderConfig, KVEncoder
from pipelines import ChunkingConfig, Document, ingest
from pipelines.known import KnownDocuments
from pipelines.ledger import LedgerEntry
from pipelines.stdlib_docs import stdlib_documents
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.prose import prose
from tests.server.double import Double

WIDTH = 2560  # of Qwen3-4B
CHUNKS = 4  # a document
CHUNK_BYTES = 1100  # about 256 tokens of English
CUTTING = ChunkingConfig(max_tokens=300)
"""What cuts a document in four: the fake tokenizer counts words and marks."""

T = TypeVar("T")


class Wide(FakeEncoder):
    """Vectors of any width, made from a hash of the text; counts a token per four characters."""

    dimension = WIDTH
    document_budget = 400

    def _vector(self, text: str) -> NDArray[np.float32]:
        seed = int.from_bytes(text.encode()[:8].ljust(8, b"\0"), "big") ^ len(text)
        vector = np.random.default_rng(seed).standard_normal(self.dimension, dtype=np.float32)
        return vector / np.linalg.norm(vector)


class Narrow(Wide):
    """The same with hardly any vector, so that what else a point takes can be seen."""

    dimension = 8


def documents(count: int) -> list[Document]:
    """Return texts of four chunks each, all of them different."""
    words = prose(7, 60_000).split()
    size = CHUNKS * CHUNK_BYTES

    def text(number: int) -> str:
        picked = (words[(number * 131 + place * 17) % len(words)] for place in range(size))
        parts: list[str] = [f"Document {number}."]
        while sum(map(len, parts)) + len(parts) < size:
            parts.append(next(picked))
        return " ".join(parts)

    return [
        Document(f"https://example.org/pages/{n:09}.html", text(n), f"crawl/{n // 1000:06}.warc") for n in range(count)
    ]


def wire(corpus: list[Document]) -> dict[str, float]:
    """Bytes of requests by gRPC: for a point without its vector, and for a document's ledger entry."""
    found: dict[str, float] = {}
    with Double() as double, double.store(grpc=True) as store:
        report = ingest(corpus, store, "notes", Narrow(), chunking=CUTTING)
        sizes = {True: 0, False: 0}
        for call in double.calls:
            if call.method == "upsert" and "control" not in call.collection:
                sizes[call.collection.endswith("ledger")] += call.size
    found["chunks_per_document_measured"] = report.points_written / len(corpus)
    text = sum(len(document.text.encode()) for document in corpus)
    found["point_overhead_bytes"] = (sizes[False] - text) / report.points_written - 4 * Narrow.dimension
    found["wire_bytes_per_document"] = sizes[True] / len(corpus)
    return found


def client(corpus: list[Document]) -> dict[str, float]:
    """Processor time of the client for a first build and for a run that finds nothing changed."""
    with server() as (url, settings):
        port = int(settings["KVEMBED_QDRANT_GRPC_PORT"])
        store = QdrantClient(url=url, prefer_grpc=True, grpc_port=port, check_compatibility=False, timeout=60)
        ingest(corpus[:100], store, "warm", Wide(), chunking=CUTTING)
        built, report = spent(lambda: ingest(corpus, store, "notes", Wide(), chunking=CUTTING))
        planned, _ = spent(lambda: ingest(corpus, store, "notes", Wide(), chunking=CUTTING))
        store.close()
    return {
        "client_seconds_per_point": built / report.points_written,
        "plan_seconds_per_document": planned / len(corpus),
    }


def inventory(count: int = 200_000) -> dict[str, float]:
    """Memory of what a plan knows of a ledger."""

    def entries() -> Iterator[LedgerEntry]:
        for number in range(count):
            yield LedgerEntry(f"https://example.org/pages/{number:09}.html", "", content_hash=f"{number:032x}")

    tracemalloc.start()
    known = KnownDocuments(entries())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"plan_bytes_per_document": held / count if known.committed else 0.0}


def encoder(texts: int) -> dict[str, float]:
    """Tokens of the bundled model in a second of one core, and bytes of English in a token of its tokenizer."""
    model = KVEncoder(EncoderConfig(model=DEMO_MODEL, layers=(2,)), device="cpu")
    pages = [text for _, text in islice(stdlib_documents(), 60)]
    cut = [page[at : at + CHUNK_BYTES] for page in pages for at in range(0, len(page), CHUNK_BYTES)][:texts]
    model.encode_counted(cut[:16], "document")
    seconds, done = spent(lambda: model.encode_counted(cut, "document"))
    tokens = float(done.tokens.sum())
    content = tokens - len(cut) * model.document_overhead
    return {
        "cpu_tokens_per_second": tokens / seconds,
        "bytes_per_token_measured": sum(len(text.encode()) for text in cut) / content,
    }


def spent(work: Callable[[], T]) -> tuple[float, T]:
    """Return the processor seconds that something took, and what it returned."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main() -> None:
    """Measure everything, then print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000, help="documents of four chunks (default 2000)")
    parser.add_argument("--texts", type=int, default=400, help="texts for the bundled model (default 400)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    corpus = documents(options.documents)
    found = {**wire(corpus[:500]), **client(corpus), **inventory(), **encoder(options.texts)}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:28}{value:14.6g}")


if __name__ == "__main__":
    main()
