"""The deployments of prefect.yaml on one machine, without a worker: `python -m flows.deployments SOURCE -c NAME`.

One process keeps the schedule and starts a process per run, one run at a time, as an embedded store needs it.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, cast

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron
from prefect.settings import get_current_settings, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.automations import crash_zombies, register
from flows.index import index_corpus
from flows.reindex import reindex_corpus
from flows.verify import verify_collection
from flows.worker import supervised

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

NIGHTLY = Cron("0 2 * * *", timezone="UTC", slug="nightly")
WEEKLY = Cron("0 6 * * 0", timezone="UTC", slug="weekly")
HEARTBEAT = 30
"""Seconds; the shortest interval that Prefect allows."""


def deployments(source: str, name: str) -> list[RunnerDeployment]:
    """Return what prefect.yaml deploys, for `prefect.serve`.

    Args:
        source: Folder, file, `.jsonl`, `.parquet` or `hf:NAME`.
        name: Collection; its store is that of the environment.
    """
    alone, later = (
        ConcurrencyLimitConfig(limit=1, collision_strategy=strategy)
        for strategy in (ConcurrencyLimitStrategy.CANCEL_NEW, ConcurrencyLimitStrategy.ENQUEUE)
    )
    made = [
        index_corpus.to_deployment(
            "nightly-index",
            schedule=NIGHTLY,
            parameters={"source": source, "name": name, "options": {"on_change": "refuse", "wait": 3600}},
            concurrency_limit=alone,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        verify_collection.to_deployment(
            "weekly-verify",
            schedule=WEEKLY,
            parameters={"name": name, "wait": 3600},
            concurrency_limit=later,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        reindex_corpus.to_deployment(
            "manual-reindex",
            parameters={"source": source, "name": name, "options": {"wait": 3600}},
            concurrency_limit=alone,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
    ]
    return cast("list[RunnerDeployment]", made)  # a coroutine is what they are in an event loop only


def serve_here(source: str, name: str) -> None:
    """Register the deployments and the zombie automation, and run what is due until told to end."""
    heard = get_current_settings().flows.heartbeat_frequency or HEARTBEAT
    with temporary_settings({"flows.heartbeat_frequency": heard}):
        register(crash_zombies())
        serve(*deployments(source, name), pause_on_shutdown=False, limit=1)


def main() -> int:
    """Serve in a process of its own, whose runs end in order when this one is told to end."""
    given = argparse.ArgumentParser(prog="python -m flows.deployments", description=__doc__)
    given.add_argument("source", help="folder, file, .jsonl, .parquet or hf:NAME")
    given.add_argument("-c", "--collection", required=True, metavar="NAME", help="collection, in KVEMBED_STORE")
    arguments = given.parse_args()
    code = "import sys; from flows.deployments import serve_here; serve_here(*sys.argv[1:])"
    return supervised([sys.executable, "-c", code, arguments.source, arguments.collection])


if __name__ == "__main__":
    sys.exit(main())
