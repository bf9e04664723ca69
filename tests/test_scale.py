"""docs/scale.md says what its simulator computes, and the simulator computes what its sources say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scale, scale_measure
from benchmarks.scale_constants import CONSTANTS, values
from benchmarks.scale_model import Estimate, breaking_points

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"


def test_page_has_the_tables_that_the_script_prints() -> None:
    made = scale.tables(values())
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- scale: (\w+) -->", page)) == set(made)
    assert scale.rewritten(page, made) == page, "run `python -m benchmarks.scale --write docs/scale.md`"


def test_memory_is_what_qdrant_computes_in_its_own_example() -> None:
    """qdrant.tech/documentation/capacity-planning: a million vectors of 1,024 numbers take 6,144,000,000 bytes."""
    known = values({"dimensions": 1024, "replicas": 1, "tracker_bytes_per_point": 0})
    assert Estimate(1e6, known).memory("float32") == 6_144_000_000


def test_device_speed_counts_operations_as_the_gpu_benchmark_does() -> None:
    """benchmarks/encoder_gpu.py: two a weight, and 4 T H D a layer halved by causality."""
    known = values({"parameters": 1e9, "layers": 10, "attention_width": 100, "utilisation": 0.5, "device_flops": 1e12})
    operations = 2 * 1e9 + 4 * (256 + 12) * 100 * 10 / 2
    assert Estimate(1, known).device_tokens_per_second == pytest.approx(0.5e12 / operations)


def test_money_is_the_sum_of_what_is_bought() -> None:
    one = Estimate(1e9, values())
    parts = one.money("int8")
    cluster = one.cluster("int8")
    assert parts["nodes"] * 1000 == pytest.approx(cluster.count * cluster.node.hour * 730)
    assert parts["gpu"] * 1000 == pytest.approx(one.device_hours * 2.5)
    assert Estimate(1e9, values({"gpu_hour": 5.0})).money("int8")["gpu"] == pytest.approx(2 * parts["gpu"])


@pytest.mark.parametrize("layout", ["float32", "int8", "binary"])
@pytest.mark.parametrize("chunks", [1e5, 1e7, 1e9, 1e11])
def test_cluster_holds_what_it_is_for(layout: str, chunks: float) -> None:
    one = Estimate(chunks, values())
    made = one.cluster(layout)
    assert made.count >= 3
    assert made.count * made.node.memory * 0.8 >= one.memory(layout)
    assert made.count * made.node.disk >= one.disk(layout)
    assert made.count * 1e8 >= 2 * chunks
    assert one.shards(layout) * 2 >= made.count * 2


def test_every_part_ends_somewhere_and_later_with_more_of_it() -> None:
    found = {what: chunks for chunks, what, _ in breaking_points(values())}
    faster = {what: chunks for chunks, what, _ in breaking_points(values({"utilisation": 0.8}))}
    assert faster["one GPU"] == pytest.approx(2 * found["one GPU"])
    assert all(chunks > 0 for chunks in found.values())


def test_constants_that_were_measured_here_are_what_the_script_measures() -> None:
    source = Path(scale_measure.__file__).read_text(encoding="utf-8")
    named = [one.name for one in CONSTANTS if one.kind == "measured" and "scale_measure" in one.source]
    assert len(named) > 4
    assert all(f'"{name}"' in source for name in named)
    assert all(one.source for one in CONSTANTS)


def test_command_takes_other_constants_and_refuses_unknown_ones(tmp_path: Path) -> None:
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({"point_overhead_bytes": 10_000, "chunks_per_document_measured": 4.2}))
    command = [sys.executable, "-m", "benchmarks.scale", "--json", "--chunks", "1e9", "--measured", str(measured)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)
    assert made["loading"].splitlines()[2].startswith("| 1 B | 21.")
    assert "| `point_overhead_bytes` | 10,000 | bytes | given |" in made["constants"]
    wrong = subprocess.run([*command, "--set", "speed=3"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "no constant speed; there are tokens_per_chunk" in wrong.stderr
