"""Where documents come from: folder, file, .jsonl, .parquet, a dataset, or objects in memory.

Every source can be read again from its start and streams: one document at a
time, whatever the size of the corpus. One bad document is yielded as
`RejectedDocument`; a source that cannot be read to its end raises, so that a
failed listing is never taken for a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipelines.documents import Document, RejectedDocument
from pipelines.errors import SourceError
from pipelines.hub_source import HubSource
from pipelines.record_sources import JsonlSource, ParquetSource
from pipelines.records import FieldNames
from pipelines.source_files import FileSource, FolderSource

_COMPRESSED = (".gz", ".bz2", ".xz")
_HUB = "hf:"


@runtime_checkable
class Source(Protocol):
    """Documents that can be read more than once."""

    @property
    def description(self) -> str:
        """What a report calls it."""

    def documents(self) -> Iterator[Document | RejectedDocument]:
        """Read from the start, in an order that is the same every time.

        Raises:
            SourceError: the listing failed or found nothing; what was yielded before stays good.
        """


class MemorySource:
    """Documents that are already here.

    An empty collection is what its owner says it is: unlike a folder, it is not an error.
    """

    def __init__(self, documents: Iterable[Document | RejectedDocument]) -> None:
        if iter(documents) is documents:
            raise SourceError(
                f"a {type(documents).__name__} can be read only once, and a run may read its source twice; "
                "pass a list, or an object with a documents() method"
            )
        self._documents = documents
        self.description = "documents in memory"

    def documents(self) -> Iterator[Document | RejectedDocument]:
        """Yield them in the order given."""
        for document in self._documents:
            if not isinstance(document, Document | RejectedDocument):
                raise SourceError(
                    f"a source holds {type(document).__name__} {document!r:.60}; "
                    "wrap each text as pipelines.Document(id=..., text=..., source=...)"
                )
            yield document


def open_source(
    source: str | Path | Source | Iterable[Document],
    *,
    id_field: str | None = None,
    text_field: str | None = None,
    title_field: str | None = None,
) -> Source:
    """Find out what a source is and open it.

    Args:
        source: A folder; a file; a `.jsonl` or `.parquet` file; `hf:NAME[:CONFIG][:SPLIT]`; a list of documents;
            or any object with `documents()`.
        id_field: Field of a record that names it; "#" numbers the records instead. Default: the first of id,
            _id, document_id.
        text_field: Field with the text. Default: the first of text, content, page_content, body.
        title_field: Field with the title. Default: title.

    Raises:
        SourceError: nothing there, not readable, or field names where there are no records.
    """
    fields = FieldNames(id_field, text_field, title_field)
    if isinstance(source, str) and source.startswith(_HUB):
        return HubSource(source.removeprefix(_HUB), fields)
    if isinstance(source, str | Path):
        return _open_path(Path(source).expanduser(), fields)
    _refuse_fields(fields, "objects in memory")
    if isinstance(source, Source):
        return source
    if isinstance(source, Iterable):
        return MemorySource(source)
    raise SourceError(
        f"source is {type(source).__name__}; legal are a path, 'hf:NAME', a list of documents, "
        "or an object with documents()"
    )


def _open_path(path: Path, fields: FieldNames) -> Source:
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:
        raise SourceError(f"{path} cannot be looked at: {error.strerror}; check its permissions") from None
    if not exists:
        raise SourceError(f"no file or folder at {path}; check the path, or name a dataset as hf:NAME")
    if is_folder:
        _refuse_fields(fields, "a folder")
        return FolderSource(path)
    if not is_file:
        raise SourceError(f"{path} is no regular file; save its content to a file and pass that")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    if suffixes and suffixes[-1] in (".jsonl", ".ndjson"):
        return JsonlSource(path, fields)
    if suffixes and suffixes[-1] == ".parquet":
        return ParquetSource(path, fields)
    _refuse_fields(fields, f"a {path.suffix or 'plain'} file")
    return FileSource(path)


def _refuse_fields(fields: FieldNames, what: str) -> None:
    if fields != FieldNames():
        raise SourceError(
            f"{what} has no fields to choose; --id-field, --text-field and --title-field are for "
            ".jsonl, .parquet and hf: sources"
        )
