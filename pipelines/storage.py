"""How a server keeps a collection's vectors, and what it indexes; an embedded store keeps everything plainly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from qdrant_client import models

from pipelines.points import CHUNK_KEYS, INDEXED_FIELDS, METADATA_KEY

if TYPE_CHECKING:
    from pipelines.errors import JSON

Quantization: TypeAlias = Literal["none", "scalar", "binary"]
"""In how few bits a vector is searched: all of them, 8 a number, or 1."""

PayloadIndex: TypeAlias = "models.PayloadSchemaType | models.KeywordIndexParams"

_OVERSAMPLING = {"scalar": 1.5, "binary": 3.0}
_QUANTILE = 0.99
_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """What a server does with the vectors of a collection; no vector changes by it, so it is no part of its identity.

    Raises:
        ValueError: a field that no server takes; the message names it.
    """

    on_disk: bool = False
    """Vectors are read from the disk, and memory holds what the system caches; for collections larger than memory."""
    quantization: Quantization = "none"
    """A small copy of every vector is searched in memory, and what it finds is measured again with the whole one.

    "scalar" takes a quarter of the memory. "binary" takes 1/32, and is for wide vectors, of 1,024 numbers and more.
    """
    tenant_field: str | None = None
    """Key of the documents' metadata that tells tenants apart; a server keeps the points of one together."""

    def __post_init__(self) -> None:
        if not isinstance(self.on_disk, bool):
            raise ValueError(f"on_disk is {self.on_disk!r}; legal are true and false")
        if self.quantization not in get_args(Quantization):
            raise ValueError(f"quantization is {self.quantization!r}; legal are {', '.join(get_args(Quantization))}")
        if self.tenant_field is not None:
            _check_tenant_field(self.tenant_field)

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, JSON]) -> StorageConfig:
        """Make one of what `to_dict` gave; missing fields have their defaults.

        Raises:
            ValueError: a field that there is not, or a value that is not legal.
        """
        fields = cls().to_dict()
        unknown = sorted(set(given) - set(fields))
        if unknown:
            raise ValueError(f"storage has no field {', '.join(map(repr, unknown))}; legal are {', '.join(fields)}")
        return cls(**{**fields, **given})  # type: ignore[arg-type] # checked as it is made

    def vectors(self, dimension: int) -> models.VectorParams:
        """Return the parameters of a collection of such vectors."""
        # 1.20 calls `on_disk` and `always_ram` deprecated in favour of `memory`, which servers before it do not know.
        return models.VectorParams(size=dimension, distance=models.Distance.COSINE, on_disk=self.on_disk or None)

    def quantization_config(self) -> models.QuantizationConfig | None:
        """Return how vectors are made small; the small ones stay in memory wherever the whole ones are."""
        if self.quantization == "scalar":
            scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=_QUANTILE, always_ram=True)
            return models.ScalarQuantization(scalar=scalar)
        if self.quantization == "binary":
            return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        return None

    def vectors_diff(self) -> dict[str, models.VectorParamsDiff]:
        """Return what a collection that exists is told about its unnamed vector."""
        return {"": models.VectorParamsDiff(on_disk=self.on_disk)}

    def quantization_diff(self) -> models.QuantizationConfigDiff:
        """Return what a collection that exists is told about small vectors."""
        config = self.quantization_config()
        return models.Disabled.DISABLED if config is None else cast("models.QuantizationConfigDiff", config)

    def search_params(self) -> models.SearchParams | None:
        """Return how a search makes up for small vectors: it takes more than asked for, and measures them again."""
        if self.quantization == "none":
            return None
        again = models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING[self.quantization])
        return models.SearchParams(quantization=again)


def payload_indexes(storage: StorageConfig | None = None) -> dict[str, PayloadIndex]:
    """Return the payload fields that a server indexes, and how; to be made before the first point is written."""
    indexes: dict[str, PayloadIndex] = dict.fromkeys(INDEXED_FIELDS, models.PayloadSchemaType.KEYWORD)
    if storage is not None and storage.tenant_field is not None:
        indexes[f"{METADATA_KEY}.{storage.tenant_field}"] = models.KeywordIndexParams(
            type=models.KeywordIndexType.KEYWORD, is_tenant=True
        )
    return indexes


def _check_tenant_field(name: object) -> None:
    if not isinstance(name, str) or not _KEY.fullmatch(name):
        raise ValueError(
            f"tenant_field is {name!r}; give a key of the documents' metadata, of letters, digits, '-' and '_', "
            "with dots between the keys of nested objects, for example 'customer'"
        )
    if name in CHUNK_KEYS:
        raise ValueError(
            f"tenant_field is {name!r}, which describes a chunk; give a key of the documents' own metadata, "
            f"none of {', '.join(sorted(CHUNK_KEYS))}"
        )
