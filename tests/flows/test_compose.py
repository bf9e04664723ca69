"""docker-compose.yml, the Dockerfile and .env.example, as far as they can be judged without a Docker engine.

The schema is schema/compose-spec.json of github.com/compose-spec/compose-spec, commit 170098ba07d9 (Apache-2.0).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from flows.worker import PATIENCE

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
LONG_RUNNING = {name: service for name, service in SERVICES.items() if name != "deploy"}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line and not line.startswith("#")
)


def variables(text):
    """Return what is interpolated: name -> how it is given where it is not set."""
    return {name: default for name, default in re.findall(r"(?<!\$)\$\{(\w+)(:?[-?][^}]*)?\}", text)}


def test_compose_file_is_valid_by_the_schema_of_the_specification():
    schema = json.loads((Path(__file__).parent / "data" / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(COMPOSE))
    assert [f"{list(error.path)}: {error.message}" for error in errors] == []
    broken = {**COMPOSE, "services": {**SERVICES, "worker": {**SERVICES["worker"], "restarts": "always"}}}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(broken)), "the schema would not see a misspelt key"


def test_compose_starts_all_but_the_gpu_worker_by_default():
    assert set(SERVICES) == {"qdrant", "postgres", "prefect", "deploy", "worker", "worker-gpu"}
    assert {name for name, service in SERVICES.items() if service.get("profiles")} == {"worker-gpu"}
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.parametrize("name", SERVICES)
def test_compose_service_waits_for_what_exists_and_can_be_waited_for(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"][0] == "CMD", f"{other} is never healthy"
        else:
            assert (other, how["condition"]) == ("deploy", "service_completed_successfully")
            assert "on-failure" in SERVICES[other]["restart"], "a one-shot service that restarts never completes"


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_compose_service_is_checked_limited_and_restarted(name):
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["logging"]["options"]["max-size"], "a log without an end fills the disk"


@pytest.mark.parametrize("name", SERVICES)
def test_compose_image_is_pinned_and_nothing_is_published_beyond_this_machine(name):
    service = SERVICES[name]
    tag = service["image"].rpartition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-\w+)?|cpu|cuda", tag), service["image"]
    assert tag not in ("cpu", "cuda") or service["build"], "a tag of ours is built here"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    mounts = [mount.split(":") for mount in service.get("volumes", [])]
    assert all(mount[0] in COMPOSE["volumes"] or mount[0].startswith("${") for mount in mounts)
    assert service.get("privileged") is None


def test_compose_versions_are_those_of_the_constraints():
    """A server and its client belong together; two lists of versions drift apart unless something compares them."""
    assert SERVICES["qdrant"]["image"] == f"qdrant/qdrant:v{PINNED['qdrant-client']}"
    assert SERVICES["prefect"]["image"].endswith(f":{PINNED['prefect']}")


@pytest.mark.parametrize("name", ["worker", "worker-gpu", "deploy", "prefect"])
def test_compose_container_of_ours_can_do_little(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert "USER 10001" in stage(service["build"]["target"])


def test_compose_worker_has_longer_to_end_than_its_runs():
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["command"][:3] == ["python", "-m", "flows.worker"]
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= PATIENCE + 15


def test_compose_worker_pools_are_those_that_deployments_go_to():
    default = variables((ROOT / "docker-compose.yml").read_text())["KVEMBED_WORK_POOL"].removeprefix(":-")
    commands = {name: service["command"] for name, service in LONG_RUNNING.items() if name.startswith("worker")}
    pools = {name: command[command.index("--pool") + 1] for name, command in commands.items()}
    assert pools == {"worker": default, "worker-gpu": "kvembed-gpu"}


def test_compose_secret_has_no_default_and_every_variable_is_explained():
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    explained = re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in explained} == set(variables(text))
    for name, default in variables(text).items():
        if re.search("KEY|PASSWORD|AUTH", name):
            assert default == ":-" or default.startswith(":?"), f"{name} has a default, which everyone knows"
            assert dict(explained)[name] == ""
        else:
            assert default.removeprefix(":-") == dict(explained)[name]


def test_compose_prefect_without_a_password_ends_and_says_which_to_set(tmp_path):
    """An empty password makes Prefect refuse everyone, with nothing but 401 to go by."""
    program, *options = [part.replace("$$", "$") for part in SERVICES["prefect"]["command"]]
    (tmp_path / "prefect").write_text("#!/bin/sh\necho started $*")
    (tmp_path / "prefect").chmod(0o755)
    for password, code, said in (("", 2, "set KVEMBED_PREFECT_AUTH in .env"), ("a:b", 0, "started server start")):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PREFECT_SERVER_API_AUTH_STRING": password}
        done = subprocess.run([program, *options], env=environment, capture_output=True, text=True, check=False)
        assert (bool(done.returncode), said in done.stdout + done.stderr) == (bool(code), True)


def test_compose_qdrant_alone_needs_its_own_key_only():
    """`docker compose up qdrant` interpolates the whole file."""
    demanded = {
        name for name, default in variables((ROOT / "docker-compose.yml").read_text()).items() if "?" in default
    }
    assert demanded == {"KVEMBED_QDRANT_API_KEY"}


def stage(name):
    """Return one stage of the Dockerfile, those it is made from included."""
    stages = {
        found[2]: (found[1], found[0]) for found in re.finditer(r"FROM (\S+) AS (\w+)\n(?:(?!FROM ).*\n)*", DOCKERFILE)
    }
    base, text = stages[name]
    return (stage(base) if base in stages else "") + text


def test_dockerfile_installs_by_the_constraints_and_carries_no_secret():
    installs = re.findall(r"pip install ((?:[^\n\\&;]|\\\n)*)", DOCKERFILE)
    assert len(installs) == 5
    assert all("--constraint /tmp/constraints.txt" in one or "--no-deps" in one for one in installs)
    assert not re.search("(ARG|ENV)[^\n]*(KEY|SECRET|PASSWORD|TOKEN|AUTH)", DOCKERFILE)
    for copied in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        assert set(copied.split()) <= {
            "constraints.txt", "pyproject.toml", "prefect.yaml", "README.md", "LICENSE", "kvembed", "pipelines", "flows"
        }  # fmt: skip


def test_dockerfile_copies_what_dockerignore_lets_through_and_nothing_else_passes():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    passed = {line.removeprefix("!/") for line in lines[1:] if line.startswith("!")}
    copied = {
        name for names in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE) for name in names.split()
    }
    assert passed == copied
    assert all((ROOT / name).exists() for name in copied)


def test_dockerfile_base_is_pinned_to_the_python_of_the_constraints():
    (base,) = re.findall(r"^FROM (python\S+)", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)


def test_dockerfile_needs_come_from_pyproject():
    """The list that the image installs is made by the one-liner in it, from the file that `pip install .` reads."""
    (code,) = re.findall(r'RUN python -c "(.*?)" "\$EXTRAS"', DOCKERFILE, re.DOTALL)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = code.replace("\\\n", "").replace("/tmp/pyproject.toml", str(ROOT / "pyproject.toml"))
    done = subprocess.run([sys.executable, "-c", code, "html,pdf"], capture_output=True, text=True, check=True)
    extras = project["optional-dependencies"]
    assert done.stdout.split("\n")[:-1] == [*project["dependencies"], *extras["html"], *extras["pdf"]]
