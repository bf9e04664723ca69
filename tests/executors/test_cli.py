"""`kvembed index --executor`, as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.command_line import Command, handbook, kvembed

__all__ = ["handbook", "kvembed"]


@pytest.mark.slow
def test_index_with_local_workers_indexes_what_inline_does(kvembed: Command, handbook: Path, tiny_model_dir: Path):
    common = ("--model", tiny_model_dir, "--layers", "1", "--json")
    inline = kvembed("index", handbook, "-c", "inline", *common).json
    local = kvembed("index", handbook, "-c", "local", "--executor", "local", "--workers", "1", *common).json
    assert {key for key in inline if inline[key] != local[key]} == {"collection", "physical", "seconds"}
    (handbook / "ice.md").write_text("# Ice\n\nIce is cold.\n")
    changed = kvembed("index", handbook, "-c", "local", "--executor", "local", "--workers", "1", "--json").json
    assert (changed["documents_changed"], changed["documents_unchanged"]) == (1, 2)
    assert "cold" in kvembed("search", "local", "ice").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "2"], "the inline executor has none; choose another executor"),
        (["--executor", "local", "--workers", "0"], "greater than or equal to 1"),
        (["--executor", "local", "--device", "cuda:0,cuda:1"], "legal are cpu, cuda"),
        (["--executor", "dask"], "'dask' is not one of 'inline', 'local', 'ray'"),
        (["--executor", "local", "--flow"], "--executor and --workers are not for --flow"),
    ],
)
def test_index_with_executor_options_that_do_not_go_together_says_so(kvembed: Command, handbook: Path, options, words):
    ended = kvembed("index", handbook, "-c", "hb", *options)
    assert ended.code == 2
    assert words in " ".join(ended.err.replace("│", " ").split())
    assert ended.out == ""


def test_index_with_ray_and_an_embedded_store_says_what_to_do(kvembed: Command, handbook: Path, tiny_model_dir: Path):
    ended = kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir, "--layers", "1", "--executor", "ray")
    assert ended.code == 1
    assert "name a Qdrant server by its URL, or use the local executor" in " ".join(ended.err.split())
