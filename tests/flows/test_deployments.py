"""prefect.yaml and flows/deployments.py: two ways to run the same things at the same times."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import Posture
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows import automations, deployments
from flows.automations import FLOWS, crash_zombies, register
from flows.worker import end_runs, flow_runs

ROOT = Path(__file__).parents[2]
DECLARED = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
BY_NAME = {one["name"]: one for one in DECLARED["deployments"]}


def set_up(parameters):
    """Put values where prefect.yaml has environment variables."""
    return {
        name: set_up(value) if isinstance(value, dict) else "set" if str(value).startswith("{{ $") else value
        for name, value in parameters.items()
    }


def test_prefect_yaml_is_what_prefect_reads():
    read = PrefectYamlModel.model_validate(DECLARED)
    assert [one.name for one in read.deployments] == ["nightly-index", "weekly-verify", "manual-reindex"]
    for one in DECLARED["deployments"]:
        known = set(type(read.deployments[0]).model_fields)
        assert set(one) <= known, "Prefect ignores what it does not know"


@pytest.mark.parametrize("name", BY_NAME)
def test_prefect_yaml_deployment_runs_alone_and_its_parameters_fit_its_flow(name):
    declared = BY_NAME[name]
    flow = load_flow_from_entrypoint(declared["entrypoint"])
    assert flow.name in {ours.name for ours in FLOWS}
    assert declared["concurrency_limit"]["limit"] == 1
    assert declared["enforce_parameter_schema"] is True
    environment = declared["work_pool"]["job_variables"]["env"]
    assert environment == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(deployments.HEARTBEAT)}, "no zombie is noticed"
    schema = parameter_schema(flow).model_dump_for_openapi()
    validate(set_up(declared["parameters"]), schema, raise_on_error=True)
    flow.validate_parameters(set_up(declared["parameters"]))
    assert validate({**set_up(declared["parameters"]), "name": ""}, schema), "an unset variable would pass"
    assert validate({**set_up(declared["parameters"]), "nmae": "x"}, {**schema, "additionalProperties": False})


def test_prefect_yaml_says_what_a_run_does_that_meets_another():
    strategies = {name: one["concurrency_limit"]["collision_strategy"] for name, one in BY_NAME.items()}
    assert strategies == {"nightly-index": "CANCEL_NEW", "weekly-verify": "ENQUEUE", "manual-reindex": "CANCEL_NEW"}
    assert BY_NAME["nightly-index"]["parameters"]["options"]["on_change"] == "refuse"


def test_prefect_yaml_holds_no_secret():
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8").upper()
    assert "KEY" not in text
    assert "PASSWORD" not in text


@pytest.mark.parametrize("name", BY_NAME)
def test_serve_deploys_what_prefect_yaml_declares(name):
    """Two lists of schedules drift apart unless something compares them."""
    declared = BY_NAME[name]
    served = {one.name: one for one in deployments.deployments("set", "set")}[name]
    schedules = [
        {"cron": one.schedule.cron, "timezone": one.schedule.timezone, "slug": one.slug}
        for one in served.schedules or []
    ]
    assert schedules == declared["schedules"], "with other slugs Prefect refuses the one after the other"
    assert served.flow_name == load_flow_from_entrypoint(declared["entrypoint"]).name
    assert served.entrypoint == declared["entrypoint"]
    assert served.parameters == set_up(declared["parameters"])
    assert served.concurrency_limit == declared["concurrency_limit"]["limit"]
    assert served.concurrency_options.collision_strategy.value == declared["concurrency_limit"]["collision_strategy"]
    assert served.enforce_parameter_schema


def test_crash_zombies_hears_of_our_runs_only_and_of_each_by_itself():
    """A server may have other people's flows, and one run's heartbeats must not keep another one's alive."""
    automation = crash_zombies()
    trigger = automation.trigger
    assert trigger.posture is Posture.Proactive
    assert trigger.for_each == {"prefect.resource.id"}
    assert trigger.match_related.root["prefect.resource.name"] == [flow.name for flow in FLOWS]
    assert trigger.expect >= {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}
    assert "prefect.flow-run.heartbeat" in trigger.expect & trigger.after
    assert automation.actions[0].state is StateType.CRASHED
    assert timedelta(seconds=2 * deployments.HEARTBEAT) < trigger.within


def test_register_twice_leaves_one_automation(api):
    for silence in (60, 90):
        register(crash_zombies(timedelta(seconds=silence)))
    with get_client(sync_client=True) as client:
        (found,) = client.read_automations_by_name(crash_zombies().name)
    assert found.trigger.within == automations.SILENCE


# A worker with a run that takes a moment to end, one that does not care, and a process that is no run of a flow.
FAMILY = """
import subprocess, sys, time
CHILD = "import signal, sys, time; {}; print('up', flush=True); time.sleep(60)"
def child(name, handler):
    code = CHILD.format(handler)
    process = subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process
SLOW = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(0)))"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
children = [child("prefect.engine", SLOW), child("hook", SLOW)]
if sys.argv[1] == "deaf":
    children.append(child("prefect.engine", DEAF))
print(*(process.pid for process in children), flush=True)
sys.stdin.read()
for process in children:
    process.kill()
    process.wait()
"""


@pytest.fixture(params=["obedient", "deaf"])
def family(request):
    worker = subprocess.Popen(
        [sys.executable, "-c", FAMILY, request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield request.param, worker.pid, [int(pid) for pid in worker.stdout.readline().split()]
    worker.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
def test_end_runs_ends_the_runs_of_a_worker_and_nothing_else(family):
    """Contract: hooks that a worker runs are not hurt, and a run that does not care is not waited for without end."""
    kind, worker, (run, hook, *deaf) = family
    assert flow_runs(worker) == {run, *deaf}
    end_runs(worker, patience=3.0)
    assert flow_runs(worker) == set(deaf)
    assert (kind == "deaf") == bool(deaf)
    assert Path(f"/proc/{hook}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
