"""A dataset of the Hugging Face hub, or in its layout on disk, streamed through `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.documents import Document, RejectedDocument, printable
from pipelines.errors import SourceError, TransientError
from pipelines.records import ROW_NUMBER, FieldNames, Place, Row, check_fields, document_of

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` leaves in its folder."""


class HubSource:
    """Rows of one split, without downloading the whole of it first.

    Args:
        spec: `NAME[:CONFIG][:SPLIT]`; NAME is a hub id or a local folder. A single part behind NAME is a
            configuration if the dataset has one of that name, and a split otherwise.
        fields: Without any id field in the dataset the row number is the id.
    """

    def __init__(self, spec: str, fields: FieldNames) -> None:
        self._name, self._parts = _taken_apart(spec)
        self._local = Path(self._name).expanduser().exists()
        self._fields = fields
        self.description = printable(f"hf:{spec}")

    def documents(self) -> Iterator[Document | RejectedDocument]:
        """Read row by row.

        Raises:
            SourceError: no such dataset, configuration, split or field; no network; no rows.
            TransientError: the connection broke on the way.
        """
        rows = self._rows(self._loaded())
        # A folder is named without its path, so that the same data elsewhere is the same data.
        name = f"hf:{Path(self._name).name}" if self._local else self.description
        number, fields = -1, self._fields
        for number, row in enumerate(rows):
            if number == 0:
                fields = self._fields_for(row)
            yield document_of(row, fields, Place(name, number, f"row {number}"))
        if number < 0:
            raise SourceError(f"nothing to index in {self.description}: no rows")

    def _fields_for(self, row: Row) -> FieldNames:
        """Settle the field names by the first row; all rows of a dataset have the same fields."""
        fields = self._fields
        if fields.id is None and not set(row) & set(fields.id_candidates()):
            fields = replace(fields, id=ROW_NUMBER)
        check_fields(fields, row, self.description)
        return fields

    def _loaded(self) -> Dataset | IterableDataset:
        try:
            splits = self._open()
        except Exception as error:
            raise SourceError(self._advice(error)) from error
        if not isinstance(splits, dict):
            return splits
        if len(splits) != 1:
            raise SourceError(
                f"{self.description} has the splits {', '.join(map(repr, splits))}; "
                f"name one, for example hf:{self._name}::{next(iter(splits), 'train')}"
            )
        return next(iter(splits.values()))

    def _open(self) -> Dataset | IterableDataset | dict[str, Dataset | IterableDataset]:
        import datasets

        folder = Path(self._name).expanduser()
        if self._local and any((folder / name).exists() for name in _SAVED):
            saved = datasets.load_from_disk(str(folder))
            return saved[self._parts[-1]] if any(self._parts) else saved
        name = str(folder.absolute()) if self._local else self._name
        config, split = self._config_and_split(datasets.get_dataset_config_names, name)
        return datasets.load_dataset(name, config, split=split, streaming=True)

    def _config_and_split(self, config_names: Callable[[str], list[str]], name: str) -> tuple[str | None, str | None]:
        if len(self._parts) < 2 and any(self._parts):
            part = self._parts[0]
            return (part, None) if part in config_names(name) else (None, part)
        config, split = (*self._parts, "", "")[:2]
        return config or None, split or None

    def _rows(self, dataset: Dataset | IterableDataset) -> Iterator[Row]:
        try:
            yield from dataset
        except Exception as error:
            message = f"{self.description} cannot be read to its end: {type(error).__name__}: {error}"
            # A file on this disk will be as damaged next time; a connection may be back.
            if self._local:
                raise SourceError(f"{message}; repair the dataset and run again") from error
            raise TransientError(f"{message}; run again when the network is back") from error

    def _advice(self, error: Exception) -> str:
        cause = f"{self.description} cannot be opened: {type(error).__name__}: {error}"
        if isinstance(error, ConnectionError):
            return (
                f"{cause}; connect to the network, or fetch the dataset elsewhere with "
                f"`hf download {self._name} --repo-type dataset --local-dir FOLDER` and pass hf:FOLDER"
            )
        return f"{cause}; check the name as hf:NAME[:CONFIG][:SPLIT], or pass hf:FOLDER for a local dataset"


def _taken_apart(spec: str) -> tuple[str, tuple[str, ...]]:
    """Split `NAME[:CONFIG][:SPLIT]`; a path that exists is all name."""
    if not spec:
        raise SourceError("hf: names no dataset; pass hf:NAME[:CONFIG][:SPLIT], for example hf:BeIR/scifact:corpus")
    if Path(spec).expanduser().exists():
        return spec, ()
    name, *parts = spec.split(":")
    if not name or len(parts) > 2:
        raise SourceError(f"hf:{spec} has {len(parts) + 1} parts; legal is hf:NAME[:CONFIG][:SPLIT]")
    return name, tuple(parts)
