"""Arithmetic of docs/scale.md: what some chunks need, a line a formula."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LAYOUTS = ("float32", "int8", "binary")
"""What is in memory: the vectors, one byte a number, or one bit; the others keep the vectors on disk."""
_BYTES = {"float32": 4.0, "int8": 1.0, "binary": 1 / 8}


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that Qdrant runs on: bytes, cores, bits per second, USD an hour."""

    name: str
    memory: float
    disk: float
    cores: float
    network: float
    hour: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many nodes, and which resource asks for them."""

    node: Node
    count: int
    decides: str


def nodes(known: Mapping[str, float]) -> tuple[Node, ...]:
    """Return the two machines that clusters are made of."""
    fields = ("memory", "disk", "cores", "network", "hour")
    return tuple(Node(name, *[known[f"{name}_node_{field}"] for field in fields]) for name in ("small", "large"))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What some chunks need.

    Attributes:
        chunks: How many.
        known: Constants by name.
    """

    chunks: float
    known: Mapping[str, float]

    @property
    def documents(self) -> float:
        """Documents that the chunks come from."""
        return self.chunks / self.known["chunks_per_document"]

    @property
    def tokens(self) -> float:
        """Tokens through the model."""
        return self.chunks * (self.known["tokens_per_chunk"] + self.known["prompt_tokens"])

    @property
    def device_tokens_per_second(self) -> float:
        """Of one GPU: 2 operations a weight, and 4 T W a layer, halved because the pass is causal."""
        k = self.known
        length = k["tokens_per_chunk"] + k["prompt_tokens"]
        operations = 2 * k["parameters"] + 2 * length * k["attention_width"] * k["layers"]
        return k["utilisation"] * k["device_flops"] / operations

    @property
    def device_hours(self) -> float:
        """Hours of one GPU."""
        return self.tokens / self.device_tokens_per_second / 3600

    @property
    def point_bytes(self) -> float:
        """Bytes of one point on the wire, taken for those of its vector and payload on disk as well."""
        k = self.known
        return 4 * k["dimensions"] + k["tokens_per_chunk"] * k["bytes_per_token"] + k["point_overhead_bytes"]

    @property
    def wire_bytes(self) -> float:
        """All points and ledger entries, once to a server; replication sends them on within the cluster."""
        return self.chunks * self.point_bytes + self.documents * self.known["wire_bytes_per_document"]

    def memory(self, layout: str) -> float:
        """Bytes that have to stay in memory, replicas included; for float32 Qdrant's 1.5 is the index."""
        k = self.known
        kept = _BYTES[layout] * k["dimensions"] * k["qdrant_overhead"]
        beside = 0.0 if layout == "float32" else k["graph_bytes_per_point"] + k["tracker_bytes_per_point"]
        return k["replicas"] * (self.chunks * (kept + beside) + self.documents * k["tracker_bytes_per_point"])

    def disk(self, layout: str) -> float:
        """Bytes on disk, replicas included: vector, payload, copy, graph, half as much for segments being made."""
        k = self.known
        copy = 0.0 if layout == "float32" else _BYTES[layout] * k["dimensions"]
        point = self.point_bytes + copy + k["graph_bytes_per_point"]
        ledger = self.documents * k["wire_bytes_per_document"]
        return k["replicas"] * k["qdrant_overhead"] * (self.chunks * point + ledger)

    def limits(self, layout: str, node: Node) -> dict[str, int]:
        """Nodes that each resource asks for by itself; a cluster that survives the loss of one has three at least."""
        k = self.known
        return {
            "memory": math.ceil(self.memory(layout) / (node.memory * k["node_memory_used"])),
            "disk": math.ceil(self.disk(layout) / node.disk),
            "points": math.ceil(k["replicas"] * self.chunks / k["points_per_node"]),
            "the loss of one": 3,
        }

    def cluster(self, layout: str) -> Cluster:
        """Return the cheaper of a cluster of small nodes and one of large nodes."""
        found = []
        for node in nodes(self.known):
            limits = self.limits(layout, node)
            decides = max(limits, key=lambda name: limits[name])
            found.append(Cluster(node, limits[decides], decides))
        return min(found, key=lambda one: one.count * one.node.hour)

    def shards(self, layout: str) -> int:
        """Shards of the collection: what the nodes hold, less the replicas."""
        return math.ceil(self.cluster(layout).count * self.known["shards_per_node"] / self.known["replicas"])

    def graph_hours(self, layout: str) -> float:
        """Hours until every replica has its graph, all nodes at work and nothing else to do."""
        k, cluster = self.known, self.cluster(layout)
        rate = cluster.count * cluster.node.cores * k["points_per_core_second"]
        return k["replicas"] * self.chunks / rate / 3600

    def load_hours(self, layout: str) -> float:
        """Hours until the points are on the nodes, by half of their network."""
        cluster = self.cluster(layout)
        bits = self.wire_bytes * 8 * self.known["replicas"]
        return bits / (cluster.count * cluster.node.network / 2) / 3600

    @property
    def writer_hours(self) -> float:
        """Hours of one core that cut, convert and send."""
        return self.chunks * self.known["client_seconds_per_point"] / 3600

    @property
    def plan_hours(self) -> float:
        """Hours of one core for a run that finds nothing changed, beside reading and parsing the source."""
        return self.documents * self.known["plan_seconds_per_document"] / 3600

    @property
    def plan_memory(self) -> float:
        """Bytes that one run keeps of the ledger."""
        return self.documents * self.known["plan_bytes_per_document"]

    @property
    def scan_hours(self) -> float:
        """Hours in which one client reads every vector back."""
        return self.chunks / self.known["scan_points_per_second"] / 3600

    @property
    def prefect_seconds(self) -> float:
        """Seconds that a flow adds to a run."""
        k = self.known
        return k["prefect_start_seconds"] + k["prefect_task_runs"] * k["prefect_seconds_per_task"]

    def money(self, layout: str) -> dict[str, float]:
        """USD for a million chunks: embedded once, sent once, kept for `months_kept`."""
        k, million = self.known, self.chunks / 1e6
        cluster = self.cluster(layout)
        kept = cluster.count * cluster.node.hour * 730 * k["months_kept"]
        return {
            "gpu": self.device_hours * k["gpu_hour"] / million,
            "writers": self.writer_hours * k["core_hour"] / million,
            "nodes": kept / million,
        }


def breaking_points(known: Mapping[str, float]) -> Iterator[tuple[float, str, str]]:
    """Yield (chunks, what ends there, what it is that ends), by the same constants."""
    one = Estimate(1.0, known)
    night, per_document = 8 * 3600.0, known["chunks_per_document"]
    length = known["tokens_per_chunk"] + known["prompt_tokens"]
    large = nodes(known)[-1]
    node = large.memory * known["node_memory_used"]
    yield 20_000, "the embedded store", "all points in one process's memory, every query compared with each"
    yield night * known["cpu_tokens_per_second"] / length, "one CPU core", "a night of 8 hours, the bundled model"
    yield night * one.device_tokens_per_second / length, "one GPU", "a night of 8 hours"
    yield known["replicas"] * node / one.memory("float32"), "one large node, vectors in memory", "its memory"
    yield known["points_per_node"], "one large node, quantized", "what Qdrant calls good for one node"
    yield large.cores * known["points_per_core_second"] * 86400, "one large node's graph", "a day of building"
    yield 86400 * known["scan_points_per_second"], "`verify --full` by one client", "a day of reading vectors back"
    yield night / known["client_seconds_per_point"], "one writing process", "a night of 8 hours"
    yield night / known["plan_seconds_per_document"] * per_document, "one planning process", "a night of 8 hours"
    yield 64e9 / known["plan_bytes_per_document"] * per_document, "a plan's memory", "64 GB"
    yield known["points_per_node"] * per_document, "the ledger in one shard", "entries as many as a node's points"
