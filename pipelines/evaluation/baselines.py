"""Systems that stand beside the one asked about, each a choice by name: lexical ones, and others on its backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kvembed.errors import KVEmbedError
from kvembed.methods import Method
from kvembed.transforms import asked_of
from pipelines.errors import TerminalError
from pipelines.evaluation.lexical import bm25_of_chunks, bm25_of_documents, require_bm25
from pipelines.evaluation.running import encoder_system
from pipelines.evaluation.system_names import BASELINES, BM25, BM25_DOCUMENTS, NO_REROUTING, system_name
from pipelines.report import named_progress

if TYPE_CHECKING:
    from kvembed import EncoderConfig, KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.evaluation.systems import System
    from pipelines.evaluation.tasks import EvaluationTask, SystemBuilder
    from pipelines.report import Progress


def prepare_beside(names: Sequence[str], encoder: KVEncoder, chunking: ChunkingConfig) -> list[SystemBuilder]:
    """Make ready what stands beside an encoder; all of it embeds or reads the very chunks that the encoder does.

    Encoders share its weights, device, dtype and quantization, and ask for the same transform. Where a method needs
    a longer sequence for the same chunk, as Echo does, its max_length grows.

    Args:
        names: Of `BASELINES`; where they are all of them, the encoder's own is left out.
        encoder: The one asked about.
        chunking: How its documents are cut.

    Raises:
        TerminalError: a name is the encoder's own, its model cannot compute a method over such chunks, or BM25's
            packages are not installed.
    """
    own = system_name(encoder.config)
    if own in names and tuple(names) != BASELINES:
        raise TerminalError(f"{own} is the system asked about and cannot stand beside itself; leave it out")
    if {BM25, BM25_DOCUMENTS} & {*names}:
        require_bm25()
    shared = same_chunks(chunking, encoder)
    return [_builder(name, encoder, shared) for name in names if name != own]


def same_chunks(chunking: ChunkingConfig, encoder: KVEncoder) -> ChunkingConfig:
    """Return how an encoder with more room cuts documents as this one does."""
    budget = min(chunking.max_tokens, encoder.document_budget)
    return replace(chunking, max_tokens=budget, overlap_tokens=min(chunking.overlap_tokens, budget // 2))


def _builder(name: str, encoder: KVEncoder, chunking: ChunkingConfig) -> SystemBuilder:
    other = None if name in (BM25, BM25_DOCUMENTS) else _other(name, encoder, chunking.max_tokens)

    def build(task: EvaluationTask, progress: Progress | None) -> System:
        told = named_progress(progress, name)
        if other is not None:
            return encoder_system(task, other, name=name, chunking=chunking, progress=told)
        if name == BM25:
            return bm25_of_chunks(task, encoder, chunking, told)
        return bm25_of_documents(task, told)

    return build


def _other(name: str, encoder: KVEncoder, chunk_tokens: int) -> KVEncoder:
    """Return an encoder over the same weights with room for such chunks, tried on a word before any work."""
    try:
        other = encoder.with_config(beside_config(name, encoder.config))
        if (short := chunk_tokens - other.document_budget) > 0:
            longer = other.config.max_length + other.document_copies * short
            other = encoder.with_config(replace(other.config, max_length=longer))
        if other.config.layers != "auto" and other.config.transform is None:
            other.encode_document(["kvembed"])
    except KVEmbedError as error:
        raise TerminalError(
            f"{name} cannot embed chunks of {chunk_tokens} tokens with this model: {error}; "
            "give smaller --max-tokens, or leave it out of --beside"
        ) from error
    return other


def beside_config(name: str, config: EncoderConfig) -> EncoderConfig:
    """Return what a system beside an encoder computes over the same weights.

    Args:
        name: Of `BASELINES`, but for the lexical ones.
        config: The encoder's.
    """
    if name not in (NO_REROUTING, Method.KV_REROUTING.value):
        return config.with_method(name)
    rerouting = config.with_method(Method.KV_REROUTING)
    if name == NO_REROUTING:
        return rerouting.with_layers(())
    if system_name(rerouting) == NO_REROUTING:
        return replace(rerouting, layers="auto", prefix_bias=1.0, transform=asked_of(rerouting.transform))
    return rerouting
