"""What docs/scale.md is computed from: every constant with its unit, where it comes from, and how sure it is.

`measured` was measured by this repository, on the machine that docs/scale.md names; `documented` is what the named page
says; `assumed` is a guess with its reason, to be replaced before anybody buys anything. `benchmarks/scale_measure.py`
measures those marked so anew, `benchmarks/encoder_gpu.py` the utilisation on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["measured", "documented", "assumed"]

_SIZING = "qdrant.tech/documentation/capacity-planning"
_SCALING = "Qdrant's own skill qdrant-horizontal-scaling (skills.sh/qdrant/skills)"
_MEMORY = "Qdrant's own skill qdrant-memory-usage-optimization"
_HERE = "benchmarks/scale_measure.py"


@dataclass(frozen=True, slots=True)
class Constant:
    """One number.

    Attributes:
        name: As `--set NAME=VALUE` takes it.
        value: In `unit`.
        unit: For a person.
        kind: How sure it is.
        source: Where it comes from, or why it is assumed.
    """

    name: str
    value: float
    unit: str
    kind: Kind
    source: str


CONSTANTS = (
    Constant("tokens_per_chunk", 256, "tokens", "documented", "the default of --max-tokens, here as if all were full"),
    Constant("prompt_tokens", 12, "tokens", "assumed", "the prompt around a chunk, by a tokenizer of 150,000 entries"),
    Constant("chunks_per_document", 4, "chunks", "assumed", "a web page of some 1,000 tokens"),
    Constant("bytes_per_token", 4.3, "bytes", "assumed", "English in Qwen3's tokenizer; the bundled one is coarser"),
    Constant("parameters", 3.6e9, "weights", "documented", "Qwen3-4B without its embeddings (its model card)"),
    Constant("layers", 36, "", "documented", "Qwen3-4B"),
    Constant("attention_width", 4096, "", "documented", "Qwen3-4B: 32 query heads of 128"),
    Constant("dimensions", 2560, "", "documented", "Qwen3-4B's hidden states, hence the vector"),
    Constant("device_flops", 989e12, "FLOP/s", "documented", "NVIDIA H100 SXM data sheet, bfloat16, dense"),
    Constant(
        "utilisation", 0.40, "", "assumed", "share of that reached from texts to vectors; encoder_gpu.py measures it"
    ),
    Constant(
        "cpu_tokens_per_second", 10_700, "tokens/s", "measured", f"{_HERE}: the bundled model (6.9 M weights), one core"
    ),
    Constant("point_overhead_bytes", 345, "bytes", "measured", f"{_HERE}: an upsert by gRPC less vector and text"),
    Constant("wire_bytes_per_document", 771, "bytes", "measured", f"{_HERE}: ledger entry and run records by gRPC"),
    Constant("client_seconds_per_point", 1.06e-3, "s of a core", "measured", f"{_HERE}: cut, convert, send, commit"),
    Constant(
        "plan_seconds_per_document", 8.3e-5, "s of a core", "measured", f"{_HERE}: nothing changed, texts in memory"
    ),
    Constant(
        "plan_bytes_per_document", 34, "bytes", "measured", "benchmarks/ingest.py: 25 for id and content, 8 for text"
    ),
    Constant("prefect_start_seconds", 6, "s", "measured", "README.md: 4 to 6 s of start-up"),
    Constant("prefect_seconds_per_task", 0.025, "s", "assumed", "10 to 25 ms a task run"),
    Constant("prefect_task_runs", 50, "task runs", "documented", "the most that a flow here has, at any size"),
    Constant("qdrant_overhead", 1.5, "", "documented", f"{_SIZING}: on vectors held in memory, index included"),
    Constant("graph_bytes_per_point", 140, "bytes", "assumed", "HNSW, m = 16: 32 links of 4 bytes below, few above"),
    Constant("tracker_bytes_per_point", 64, "bytes", "assumed", "id (UUID), version and offset of a point"),
    Constant("small_node_memory", 64e9, "bytes", "assumed", "a memory-optimised machine"),
    Constant("small_node_disk", 2e12, "bytes", "assumed", "its NVMe"),
    Constant("small_node_cores", 8, "cores", "assumed", "its cores"),
    Constant("small_node_network", 10e9, "bit/s", "assumed", "its network; half of it for ingestion"),
    Constant("small_node_hour", 0.60, "USD", "assumed", "its price, November 2026; an input, not an offer"),
    Constant("large_node_memory", 512e9, "bytes", "assumed", "a memory-optimised machine"),
    Constant("large_node_disk", 15e12, "bytes", "assumed", "its NVMe"),
    Constant("large_node_cores", 64, "cores", "assumed", "its cores"),
    Constant("large_node_network", 25e9, "bit/s", "assumed", "its network; half of it for ingestion"),
    Constant("large_node_hour", 4.50, "USD", "assumed", "its price, November 2026; an input, not an offer"),
    Constant("node_memory_used", 0.8, "", "documented", f"{_MEMORY}: above 80% resident is a problem"),
    Constant("points_per_node", 1e8, "points", "documented", f"{_SCALING}: good up to about 100 M a node"),
    Constant("shards_per_node", 3, "shards", "documented", f"{_SCALING}: 2 to 4 a node"),
    Constant("replicas", 2, "", "documented", f"{_SCALING}: lets a node fail"),
    Constant(
        "points_per_core_second", 15, "points/s", "assumed", "HNSW build at 2,560 numbers, m = 16, ef_construct = 100"
    ),
    Constant(
        "scan_points_per_second",
        5000,
        "points/s",
        "assumed",
        "scroll with vectors by one client, as verify --full reads",
    ),
    Constant("gpu_hour", 2.50, "USD", "assumed", "rented H100, November 2026; an input, not an offer"),
    Constant("core_hour", 0.05, "USD", "assumed", "for readers and writers, November 2026; an input"),
    Constant("months_kept", 1, "months", "assumed", "how long the nodes are paid for in the money per million"),
)


def values(changed: Mapping[str, float] | None = None) -> Mapping[str, float]:
    """Return all constants by name.

    Args:
        changed: Others instead.

    Raises:
        ValueError: there is no constant of a name.
    """
    known = {constant.name: float(constant.value) for constant in CONSTANTS}
    unknown = sorted(set(changed or {}) - set(known))
    if unknown:
        raise ValueError(f"no constant {', '.join(unknown)}; there are {', '.join(known)}")
    return MappingProxyType(known | {name: float(value) for name, value in (changed or {}).items()})
