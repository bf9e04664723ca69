"""The deployments as they run at night: server, worker and schedule as processes of their own, and what ends them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import temporary_settings
from prefect.states import Cancelling

from flows.automations import crash_zombies, register
from flows.worker import flow_runs
from tests.flows.sessions import artifact
from tests.flows.stack import Stack, answers, free_port, postgres, processes, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc"),
]

AUTH = "operator:s3cret"


class Night(Stack):
    """A stack with an embedded store, deployments from prefect.yaml, and a client for this process."""

    def __init__(self, folder: Path, model: Path, variables: dict[str, str]) -> None:
        self.port, self.health = free_port(), free_port()
        super().__init__(
            folder,
            {
                "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
                "PREFECT_SERVER_API_HOST": "127.0.0.1",
                "PREFECT_SERVER_API_PORT": str(self.port),
                "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
                "PREFECT_WORKER_QUERY_SECONDS": "2",
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(self.health),
                "KVEMBED_STORE": str(folder / "store"),
                "KVEMBED_MODEL": str(model),
                "KVEMBED_SOURCE": str(folder / "documents"),
                "KVEMBED_COLLECTION": "night",
                "KVEMBED_WORK_POOL": "kvembed-cpu",
                **variables,
            },
        )
        (folder / "documents").mkdir()

    def deploy(self) -> None:
        """Start the server, and register what the service `deploy` of docker-compose.yml registers."""
        self.start(sys.executable, "-m", "prefect", "server", "start", "--no-ui", name="server")
        wait_for(lambda: answers(f"http://127.0.0.1:{self.port}/api/health"), 120, "the server")
        self.prefect("work-pool", "create", "kvembed-cpu", "--type", "process")
        self.prefect("--no-prompt", "deploy", "--all")
        self.run(sys.executable, "-m", "flows.automations")

    def work(self) -> int:
        """Start a worker, and return its process."""
        options = ["--pool", "kvembed-cpu", "--limit", "1", "--with-healthcheck"]
        process = self.start(sys.executable, "-m", "flows.worker", *options, name="worker")
        wait_for(lambda: answers(f"http://127.0.0.1:{self.health}/health"), 60, "the worker")
        return process.pid

    def write(self, documents: int, words: int = 12) -> None:
        """Put documents into the source."""
        for number in range(documents):
            text = " ".join(f"word{number}x{position}" for position in range(words))
            (self.folder / "documents" / f"{number}.txt").write_text(text)

    def status(self) -> dict[str, object]:
        """Return what `kvembed status` says of the collection."""
        printed = self.run(sys.executable, "-c", "from pipelines.cli import main; main()", "status", "night", "--json")
        return json.loads(printed)["collections"][0]


@pytest.fixture
def client(night):
    auth = night.environment.get("PREFECT_API_AUTH_STRING") or None
    url = night.environment["PREFECT_API_URL"]
    with temporary_settings({"api.url": url, "api.auth_string": auth}), get_client(sync_client=True) as opened:
        yield opened


def made(tmp_path_factory, model, held: ExitStack, variables: dict[str, str]) -> Night:
    night = Night(tmp_path_factory.mktemp("night"), model, variables)
    held.callback(night.end)
    night.deploy()
    return night


@pytest.fixture(params=["sqlite", "postgres"])
def night(request, tmp_path_factory, tiny_model_dir) -> Iterator[Night]:
    """As docker-compose.yml runs it, with PostgreSQL and a password; and as one runs it by hand."""
    with ExitStack() as held:
        variables = {}
        if request.param == "postgres":
            if shutil.which("initdb") is None or shutil.which("postgres") is None:
                pytest.skip("PostgreSQL is not installed")
            variables = {"PREFECT_SERVER_API_AUTH_STRING": AUTH, "PREFECT_API_AUTH_STRING": AUTH}
            variables |= held.enter_context(postgres(tmp_path_factory.mktemp("postgres")))
        yield made(tmp_path_factory, tiny_model_dir, held, variables)


def ended(client, run_id, seconds=150):
    """Wait until a run is over, and return it."""

    def over():
        run = client.read_flow_run(run_id)
        return run if run.state.is_final() else None

    return wait_for(over, seconds, "the end of the run")


def started(client, night, worker, **parameters):
    """Start a run, and wait until it has committed something: return it and its process."""
    deployment = client.read_deployment_by_name("index-corpus/nightly-index")
    run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def embedding():
        found = [one for one in client.read_artifacts() if one.key == "progress-night" and one.flow_run_id == run.id]
        words = (found[0].description or "").split() if found else []
        return words[:1] == ["embed"] and int(words[1].replace(",", "")) > 0

    wait_for(embedding, 150, f"the run to embed; the worker said {night.log('worker')}")
    (process,) = flow_runs(next(iter(children(worker)))) or flow_runs(worker)
    return run, process


def children(parent):
    """Return the processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


def descendants(parent):
    """Return the processes that a process and its children have started."""
    return [pid for child in children(parent) for pid in (child, *descendants(child))]


def test_scheduled_run_of_a_deployment_indexes_a_folder_and_shows_it(night, client):
    """Contract: what prefect.yaml declares, a schedule starts, a worker runs, and a client can read what came of it."""
    night.write(20)
    (night.folder / "documents" / "bad.txt").write_bytes(b"\xff\x00\xfe")
    deployment = client.read_deployment_by_name("index-corpus/nightly-index")
    assert [(one.schedule.cron, one.schedule.timezone) for one in deployment.schedules] == [("0 2 * * *", "UTC")]
    assert deployment.global_concurrency_limit.limit == 1
    worker = night.work()
    soon = IntervalSchedule(interval=timedelta(days=1), anchor_date=datetime.now(UTC) + timedelta(seconds=8))
    client.create_deployment_schedules(deployment.id, [(soon, True)])

    def due():
        runs = client.read_flow_runs()
        return [run for run in runs if run.auto_scheduled and not run.state.is_scheduled()]

    (run,) = wait_for(due, 90, "the scheduled run to begin")
    run = ended(client, run.id)
    assert run.state.is_completed(), night.log("worker")
    figures = {row["figure"]: row["value"] for row in json.loads(artifact("index-night").data)}
    assert (figures["documents_added"], figures["documents_quarantined"]) == (20, 1)
    ((row),) = json.loads(artifact("quarantine-night").data)
    assert row["document"].startswith("[bad.txt](<file:///")
    assert artifact("progress-night").data == 100.0
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    assert len(tasks) == 4
    checked = client.create_flow_run_from_deployment(
        client.read_deployment_by_name("verify-collection/weekly-verify").id
    )
    assert ended(client, checked.id).state.is_completed(), night.log("worker")
    night.end()
    assert processes(worker) == []
    status = night.status()
    assert (status["documents"], status["writer"], status["interrupted"]) == (20, None, False)
    assert night.left_the_machine() == ""


@pytest.fixture(scope="module")
def long_night(tmp_path_factory, tiny_model_dir) -> Iterator[Night]:
    """A stack whose source takes a while to index."""
    with ExitStack() as held:
        night = made(tmp_path_factory, tiny_model_dir, held, {})
        night.write(3000, words=150)
        yield night


@pytest.fixture
def worker(long_night):
    """A worker, and nothing of the store that the run before has filled."""
    shutil.rmtree(long_night.folder / "store", ignore_errors=True)
    pid = long_night.work()
    yield pid
    long_night.started[-1].terminate()
    long_night.started.pop().wait(60)


@pytest.fixture
def long_client(long_night):
    with temporary_settings({"api.url": long_night.environment["PREFECT_API_URL"]}):
        with get_client(sync_client=True) as opened:
            yield opened


LAYERS = {"layers": [1]}


@pytest.mark.parametrize("executor", [{}, {"executor": "local", "workers": 2}], ids=["inline", "local"])
def test_worker_told_to_end_ends_its_run_in_order_and_leaves_no_process(long_night, long_client, worker, executor):
    """Contract: SIGTERM ends within 30 s, what was committed stays, nobody is left over, and the lease is free."""
    run, process = started(long_client, long_night, worker, **LAYERS)
    prefects, begun = children(worker), time.monotonic()
    long_night.started[-1].send_signal(signal.SIGTERM)
    assert long_night.started[-1].wait(60) == 0
    assert time.monotonic() - begun < 30
    assert [processes(session) for session in (worker, *prefects, process)] == [
        [] for _ in (worker, *prefects, process)
    ]
    found = long_client.read_flow_run(run.id)
    assert found.state.is_crashed()
    assert "termination signal" in found.state.message
    status = long_night.status()
    assert status["writer"] is None
    assert status["interrupted"] is True
    assert 0 < status["documents"] < 3000


def test_cancelled_run_ends_releases_its_lease_and_the_next_one_continues(long_night, long_client, worker):
    run, process = started(long_client, long_night, worker, **LAYERS)
    begun = time.monotonic()
    long_client.set_flow_run_state(run.id, Cancelling())
    assert ended(long_client, run.id, 60).state.is_cancelled()
    assert time.monotonic() - begun < 60
    assert processes(process) == []
    kept = long_night.status()
    assert kept["writer"] is None
    assert 0 < kept["documents"] < 3000
    again, process = started(long_client, long_night, worker, **LAYERS)
    assert again.id != run.id
    long_client.set_flow_run_state(again.id, Cancelling())
    ended(long_client, again.id, 60)
    assert long_night.status()["documents"] > kept["documents"]


def test_killed_run_is_called_crashed_by_its_worker_which_frees_the_lease(long_night, long_client, worker):
    """The kernel kills without asking, and a hook in the killed process cannot run."""
    run, process = started(long_client, long_night, worker, **LAYERS)
    os.kill(process, signal.SIGKILL)
    found = ended(long_client, run.id, 60)
    assert found.state.is_crashed()
    wait_for(lambda: "released the write lease of 'night'" in long_night.log("worker"), 60, "the hook")
    assert long_night.status()["writer"] is None


def test_zombie_run_is_called_crashed_and_lets_the_next_one_in(long_night, long_client, worker):
    """Contract: a machine that loses power must not hold the only place of its deployment for good."""
    register(crash_zombies(timedelta(seconds=45)))
    run, process = started(long_client, long_night, worker, **LAYERS)
    for pid in (*children(worker), worker, process):
        os.kill(pid, signal.SIGKILL)
    assert long_client.read_flow_run(run.id).state.is_running(), "nobody has reported anything"
    begun = time.monotonic()
    found = ended(long_client, run.id, 150)
    assert found.state.is_crashed()
    assert "No heartbeat for 45 s" in found.state.message
    assert time.monotonic() - begun < 120
    long_night.started[-1].wait()
    long_night.work()
    following, _ = started(long_client, long_night, long_night.started[-1].pid, **LAYERS)
    assert following.id != run.id
    long_client.set_flow_run_state(following.id, Cancelling())
    ended(long_client, following.id, 60)


def test_serve_runs_the_deployments_without_a_worker(long_night, long_client):
    """Contract: one machine needs a server and one process, and told to end that process leaves nothing."""
    shutil.rmtree(long_night.folder / "store", ignore_errors=True)
    source = str(long_night.folder / "documents")
    serving = long_night.start(sys.executable, "-m", "flows.deployments", source, "-c", "night", name="serve")
    name = "index-corpus/nightly-index"
    wait_for(lambda: "are being served" in long_night.log("serve"), 90, "the deployments to be served")
    deployment = long_client.read_deployment_by_name(name)
    run = long_client.create_flow_run_from_deployment(deployment.id, parameters={"layers": [1], "source": source})
    wait_for(lambda: long_client.read_flow_run(run.id).state.is_running(), 90, "the run to begin")
    wait_for(lambda: (long_night.folder / "store").exists(), 60, "the store")
    family, begun = descendants(serving.pid), time.monotonic()
    assert len(family) == 2, "what serves, and the run"
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(60) == 0
    assert time.monotonic() - begun < 30
    assert [processes(session) for session in (serving.pid, *family)] == [[] for _ in (serving.pid, *family)]
    assert long_client.read_flow_run(run.id).state.is_crashed(), "Prefect's own end would leave it Running"
