"""The ray executor on a real Ray of this machine, which writes to a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import TerminalError
from pipelines.executors import open_executor
from pipelines.executors.ray_data import RayExecutor
from tests.executors.light import FATAL, FRAGILE, LightConfig, LightEncoder, load, load_badly
from tests.executors.test_contract import clean, held, index, told
from tests.executors.test_local import with_word
from tests.faults.corpus import edition

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    # Ray's own: its threads and processes outlive what started them for a moment.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Three CPUs of this machine, for this module alone."""
    import ray
    from ray._private.worker import global_worker

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Actors have the environment of the cluster, which is made before the server of a test has a port for gRPC.
        patch.setenv("KVEMBED_QDRANT_PREFER_GRPC", "0")
        ray.init(
            "local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 * 2**20,
        )
        begun = [found.process for kind in global_worker.node.all_processes.values() for found in kind]
        yield
        ray.shutdown()
        for process in begun:  # which Ray kills and does not wait for
            process.wait(30)


@pytest.fixture
def workers(cluster, double, monkeypatch) -> RayExecutor:
    monkeypatch.setattr("pipelines.executors.dealing._SMALLEST", 16)
    monkeypatch.setattr("pipelines.executors.dealing._LARGEST", 64)
    return RayExecutor(2, device="cpu", load=load, patience=120.0)


def test_ray_leaves_and_reports_what_a_clean_build_does_and_a_second_run_embeds_nothing(workers, double):
    wanted, report = clean(edition(0))
    assert told(index((workers, double.url), edition(0))) == report
    assert held(double.url) == wanted
    again = index((workers, double.url), edition(0))
    assert (again.chunks_embedded, again.points_written, again.documents_unchanged) == (0, 0, 48)


def test_ray_worker_that_dies_is_replaced_and_edits_and_deletes_converge(workers, double, tmp_path):
    index(("inline", double.url), edition(1))
    found = with_word(FRAGILE)
    report = index((workers, double.url), found, LightEncoder(LightConfig(folder=str(tmp_path))))
    assert (tmp_path / FRAGILE).exists()
    assert (report.documents_added, report.documents_changed, report.documents_deleted) == (13, 12, 12)
    assert held(double.url) == clean(found)[0]


def test_ray_document_that_ends_workers_is_quarantined_alone(workers, double, tmp_path):
    found = with_word(FATAL)
    report = index((workers, double.url), found, LightEncoder(LightConfig(folder=str(tmp_path))))
    assert [(one.document_id, one.stage) for one in report.quarantined] == [("special", "embed")]
    after = held(double.url)
    assert after["ledger"].pop("special")[1] == ""
    assert after == clean([one for one in found if one.id != "special"])[0]


def test_ray_worker_that_cannot_load_the_model_ends_the_run(workers, double):
    failing = RayExecutor(1, device="cpu", load=load_badly, patience=60.0)
    with pytest.raises(FileNotFoundError, match="no weights here"):
        index((failing, double.url), edition(0)[:3])


def test_ray_pool_that_would_leave_no_cpu_to_read_is_refused(workers, double):
    greedy = RayExecutor(3, device="cpu", load=load)
    with pytest.raises(TerminalError, match=r"3 workers on cpu, and the Ray cluster has 3 CPUs .* room for 2"):
        index((greedy, double.url), edition(0)[:3])


def test_ray_refuses_a_store_that_other_processes_cannot_open(tmp_path):
    with pytest.raises(TerminalError, match="name a Qdrant server by its URL, or use the local executor"):
        index((open_executor("ray"), tmp_path), edition(0)[:3])
    assert "RAY_ADDRESS" not in os.environ
