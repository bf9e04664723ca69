"""What a run may do, as `index` and `plan` are asked for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.options import Delete, DeletionGuard, OnChange

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.manifest import Manifest
    from pipelines.storage import StorageConfig

_ALLOWED = "What the run may do"
_STORAGE = "How a server keeps the vectors (when not given: as it does)"


@dataclass(frozen=True, slots=True)
class RunChoice:
    """Options that say what a run may do; None means not given."""

    delete: Annotated[
        Delete,
        typer.Option(
            "--delete",
            help="Documents gone from the source: delete unless they are many, delete all of them, or keep them.",
            rich_help_panel=_ALLOWED,
        ),
    ] = "guarded"
    delete_share: Annotated[
        float,
        typer.Option(
            "--delete-share",
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help=f"Guarded: largest share that goes unasked, above {DeletionGuard().free} documents.",
            rich_help_panel=_ALLOWED,
        ),
    ] = DeletionGuard().share
    delete_count: Annotated[
        int,
        typer.Option(
            "--delete-count",
            metavar="N",
            min=0,
            help="Guarded: largest number that goes unasked.",
            rich_help_panel=_ALLOWED,
        ),
    ] = DeletionGuard().count
    on_change: Annotated[
        OnChange,
        typer.Option(
            "--on-change",
            help="Another encoder or chunking than the collection's: build anew, or refuse.",
            rich_help_panel=_ALLOWED,
        ),
    ] = "rebuild"
    retry_quarantined: Annotated[
        bool,
        typer.Option(
            "--retry-quarantined",
            help="Try quarantined documents again though nothing changed.",
            rich_help_panel=_ALLOWED,
        ),
    ] = False
    max_quarantined: Annotated[
        int | None,
        typer.Option(
            "--max-quarantined",
            metavar="N",
            min=0,
            help="Give up when more documents than this fail.",
            show_default="no limit",
            rich_help_panel=_ALLOWED,
        ),
    ] = None
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="Take over an empty collection, or an alias, that was made elsewhere.",
            rich_help_panel=_ALLOWED,
        ),
    ] = False
    on_disk: Annotated[
        bool | None,
        typer.Option(
            "--on-disk/--in-memory",
            help="Keep vectors on disk, read as they are needed; or in memory.",
            show_default=False,
            rich_help_panel=_STORAGE,
        ),
    ] = None
    quantization: Annotated[
        Literal["none", "scalar", "binary"] | None,
        typer.Option(
            "--quantization",
            help="Search small copies of the vectors, and score what they find by the vectors.",
            rich_help_panel=_STORAGE,
        ),
    ] = None
    tenant_field: Annotated[
        str | None,
        typer.Option(
            "--tenant-field",
            metavar="NAME",
            help="Field of the metadata that most searches filter by.",
            rich_help_panel=_STORAGE,
        ),
    ] = None

    def guard(self) -> DeletionGuard:
        """Return what `--delete guarded` lets pass."""
        return DeletionGuard(share=self.delete_share, count=self.delete_count)

    def storage(self, manifest: Manifest | None = None) -> StorageConfig | None:
        """Return how vectors are kept, or None where nothing was said of it.

        Args:
            manifest: Of the collection that exists already, if any; it has what was not given.

        Raises:
            typer.BadParameter: no server takes the field for a tenant's.
        """
        from pipelines.storage import StorageConfig

        given = {"on_disk": self.on_disk, "quantization": self.quantization, "tenant_field": self.tenant_field}
        named = {field: value for field, value in given.items() if value is not None}
        if not named:
            return None
        try:
            return StorageConfig.from_dict({**(manifest.storage if manifest is not None else {}), **named})
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    def as_json(self, wait: float, manifest: Manifest | None) -> dict[str, JSON]:
        """Return what the flow takes as `options`: all but `delete`, which is a parameter of its own."""
        storage = self.storage(manifest)
        return {
            "guard": asdict(self.guard()),
            "on_change": self.on_change,
            "wait": wait,
            "retry_quarantined": self.retry_quarantined,
            "max_quarantined": self.max_quarantined,
            "adopt": self.adopt,
            "storage": None if storage is None else storage.to_dict(),
        }
