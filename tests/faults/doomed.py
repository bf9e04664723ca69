"""Processes that index, roll back or prune, and are killed while they do.

    python -m tests.faults.doomed

takes one order per line, as JSON, and forks a process for each, so that Python and its libraries load once. It says
which process that is, then what the process says, then how it ended. An order may have the process kill itself:
`files` before that many accesses to files of the store, counted from 0, `torn` in the middle of writing the catalogue
for that time, which clients before 1.20 write in place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from qdrant_client.local.qdrant_local import QdrantLocal

from pipelines import NoPreviousGenerationError, ingest, prune, rollback, writer
from pipelines.ledger import Ledger, RunRecord
from tests.faults.histories import PIPELINES, POISON, Corpus, Form, document
from tests.pipelines.fake_encoder import FakeEncoder, FakeEncoding


@dataclass(frozen=True)
class Order:
    """What a process is to do.

    Attributes:
        store: Folder.
        corpus: To be indexed.
        pipeline: By which.
        action: "ingest", "rollback" or "prune".
        seconds: That every text takes to encode, so that there is something to kill on a fast machine too.
        files: Access to a file of the store at which it ends.
        torn: Writing of the catalogue in which it ends.
    """

    store: str
    corpus: Corpus
    pipeline: int = 0
    action: str = "ingest"
    seconds: float = 0.0
    files: int | None = None
    torn: int | None = None

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read(line: str) -> Order:
    fields = json.loads(line)
    corpus = {one: Form(tuple(form.pop("paragraphs")), **form) for one, form in fields.pop("corpus").items()}
    return Order(corpus=corpus, **fields)


class SlowEncoder(FakeEncoder):
    seconds = 0.0

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        time.sleep(self.seconds * len(texts))
        return super().encode_counted(texts, role)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_file(store: str, number: int) -> None:
    accesses = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal accesses
        touches = event == "open" or event.startswith(("os.", "shutil.", "sqlite3.connect"))
        if touches and arguments and str(arguments[0]).startswith(store):
            if accesses == number:
                die()
            accesses += 1

    sys.addaudithook(count)


def die_in_catalogue(number: int) -> None:
    writes = 0

    def save(self: QdrantLocal, aliases: dict[str, str] | None = None) -> None:
        nonlocal writes
        catalogue = json.dumps(
            {
                "collections": {name: kept.config.model_dump(mode="json") for name, kept in self.collections.items()},
                "aliases": self.aliases if aliases is None else aliases,
            }
        )
        with (Path(self.location) / "meta.json").open("w", encoding="utf-8") as file:
            if writes == number:
                file.write(catalogue[: len(catalogue) // 2])
                file.flush()
                die()
            file.write(catalogue)
        writes += 1

    QdrantLocal._save = save  # type: ignore[method-assign]


def work(order: Order) -> None:
    if order.files is not None:
        die_at_file(order.store, order.files)
    if order.torn is not None:
        die_in_catalogue(order.torn)
    if order.action == "prune":
        prune(order.store, "notes", grace=timedelta(0))
    elif order.action == "rollback":
        with suppress(NoPreviousGenerationError):
            rollback(order.store, "notes")
    else:
        say_when_writing()
        config, chunking = PIPELINES[order.pipeline]
        encoder = SlowEncoder(config, poison=POISON)
        encoder.seconds = order.seconds
        found = [document(one, form) for one, form in order.corpus.items()]
        ingest(found, order.store, "notes", encoder, chunking=chunking, delete="all", progress=progress)


def progress(stage: str, done: int, total: int | None) -> None:
    if stage == "plan":
        say("compared")


def say_when_writing() -> None:
    """Say it once the ledger knows that points will be written, which is the first trace of a run."""
    original = Ledger.put_run

    def put_run(self: Ledger, run: RunRecord) -> None:
        original(self, run)
        say("writing")

    Ledger.put_run = put_run  # type: ignore[method-assign]


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def end(order: Order) -> NoReturn:
    """Do what is ordered; nothing of the process that this one was forked from runs afterwards."""
    try:
        work(order)
    finally:
        kind, error, trace = sys.exc_info()
        traceback.print_exception(kind, error, trace) if kind else None
        sys.stderr.flush()
        os._exit(1 if kind else 0)


def main() -> None:
    # Many commits in a small corpus.
    writer._SMALLEST_GROUP, writer._LARGEST_GROUP = 8, 16
    for line in sys.stdin:
        order = read(line)
        child = os.fork()
        if child == 0:
            end(order)
        say(f"began {child}")
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
