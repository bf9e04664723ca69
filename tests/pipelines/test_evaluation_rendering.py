"""Evaluations on a terminal: everything that was asked for, in 80 columns."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from pipelines.evaluation import (
    BASELINES,
    METRICS,
    EvaluationResult,
    compare_results,
    compare_with_main,
    length_buckets,
)
from pipelines.progress import Stages, stage_bars
from pipelines.rendering_evaluation import comparison_report, evaluation_report
from tests.pipelines.evaluations import small_result


def shown(render: Callable[[Console], None]) -> str:
    file = io.StringIO()
    render(Console(file=file, width=80, markup=False, emoji=False, highlight=False))
    return file.getvalue()


def with_all_systems() -> EvaluationResult:
    """A result whose names, numbers and costs are as wide as they get."""
    result = small_result("kv-rerouting", *(name for name in BASELINES if name != "kv-rerouting"), count=10)
    figures = dataclasses.replace(
        result.main.figures,
        chunks=1_234_567,
        truncated_queries=12,
        query_tokens=900,
        peak_memory_bytes=2**36,
        seconds={"embed": 54321.0, "encode_queries": 123.4, "rank": 1.0},
    )
    identity = {**result.main.identity, "quantization": "nf4", "method": "kv-rerouting/1", "dtype": "bfloat16"}
    systems = [dataclasses.replace(one, figures=figures, identity=identity) for one in result.systems]
    return dataclasses.replace(result, systems=tuple(systems))


def test_evaluation_report_of_all_systems_is_80_columns_wide_and_cuts_nothing():
    text = shown(evaluation_report(with_all_systems()))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_evaluation_report_shows_each_mean_with_its_interval():
    result = with_all_systems()
    lines = shown(evaluation_report(result)).splitlines()
    for system in result.systems:
        cells = " ".join(line for line in lines if line.startswith(f"{system.name} "))
        for metric in METRICS:
            found = system.estimates[metric]
            assert f"{found.mean:.3f} {found.low:.3f}-{found.high:.3f}" in cells, (system.name, metric)


def test_evaluation_report_shows_corrected_differences_and_buckets():
    result = with_all_systems()
    text = shown(evaluation_report(result))
    [row] = [line for line in text.splitlines() if line.startswith("echo ") and line.count(".") == 8]
    (echo,) = [one for one in compare_with_main(result) if one.first == "echo"]
    ndcg = echo.metrics[0]
    assert row.split()[1] == f"{ndcg.difference.mean:+.3f}".replace("0.", ".", 1)
    assert row.split()[4] == f"{ndcg.p_corrected:.4f}"
    for length in ("tokens", "relevant_tokens"):
        for bucket in length_buckets(result, length):
            assert f"{bucket.low:.0f}-{bucket.high:.0f}" in text
            found = bucket.estimates["echo"]["ndcg@10"]
            assert f"{found.mean:.2f} " in text


def test_evaluation_report_shows_configuration_fingerprint_and_cost_of_each_system():
    result = with_all_systems()
    text = " ".join(shown(evaluation_report(result)).split())
    assert text.count("f" * 64) == len(result.systems)
    assert "quantization nf4" in text
    assert "max tokens 256" in text
    assert "1,234,567 0.0% 12 0 54,321.0 124.4 65,536" in text


def test_evaluation_report_tells_of_a_further_encoder_what_is_different():
    result = with_all_systems()
    echo = dataclasses.replace(
        result.system("echo"), identity={**result.main.identity, "method": "echo/1", "layers": [], "quantization": None}
    )
    systems = tuple(echo if system.name == "echo" else system for system in result.systems)
    text = shown(evaluation_report(dataclasses.replace(result, systems=systems)))
    assert "echo: as kv-rerouting, but method echo/1, layers none, quantization none" in text


def test_evaluation_report_of_one_system_shows_each_metric_on_its_line():
    result = small_result()
    lines = shown(evaluation_report(result)).splitlines()
    for metric, found in result.main.estimates.items():
        assert f"{metric:<10}  {found.mean:.4f}  {found.low:.4f} to {found.high:.4f}" in lines
    assert not any("Holm" in line for line in lines)
    assert any("1 judged documents missing, counted as not found: gone/1" in line for line in lines)


def test_comparison_report_is_80_columns_wide():
    first, second = small_result("token-prepending", count=30), small_result("kv-rerouting", count=30)
    render = comparison_report(compare_results(first, second), (first.main, second.main), {"layers": ([1], [2])})
    text = shown(render)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "kv-rerouting against token-prepending: 30 queries" in text
    assert text.count("f" * 64) == 2
    assert "Differs     layers: [1] -> [2]" in text
    lexical = dataclasses.replace(first.main, identity={"method": "bm25", "k1": 1.5})
    text = shown(comparison_report(compare_results(first, second), (lexical, second.main), {"k1": (1.5, None)}))
    assert "method bm25, k1 1.5" in text
    assert "Differs" not in text


def test_stage_of_a_system_is_named_by_both():
    file = io.StringIO()
    stages = Stages(lines=Console(file=file, width=80))
    stages("bm25: chunk", 3, 3)
    stages("embed", 2, 2)
    stages.finish()
    assert "bm25: cutting documents: 3" in file.getvalue()
    assert "embedding documents: 2" in file.getvalue()


def test_bars_of_one_system_make_room_for_the_next():
    """Ten systems of four stages do not fit into a terminal, and what does not is not shown."""
    bars = stage_bars(Console(file=io.StringIO(), width=80))
    stages = Stages(bars)
    for stage in ("echo: plan", "echo: embed", "mean: plan", "mean: embed", "mean: plan"):
        stages(stage, 1, 2)
    assert [task.description for task in bars.tasks] == ["mean: embedding documents", "mean: reading documents"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_measured_memory_is_the_work_s_own_not_that_of_the_starting_process():
    """A process begins with the peak of the one that forked it, in ru_maxrss."""
    measure = (
        "import torch\n"
        "from pipelines.evaluation.memory import measured_memory\n"
        "held = bytearray(64 << 20)\n"
        "with measured_memory() as peak:\n"
        "    more = bytearray(64 << 20)\n"
        "print(peak.process)\n"
    )
    start = f"import subprocess, sys\nheld = bytearray(1 << 30)\nsubprocess.run([sys.executable, '-c', {measure!r}])"
    found = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    assert 128 << 20 < int(found.stdout) < 900 << 20
