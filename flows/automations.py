"""What the server does by itself: `python -m flows.automations` registers it, anew each time.

Source: Prefect's documentation, "How to detect and respond to zombie flows".
"""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.index import index_corpus
from flows.reindex import reindex_corpus
from flows.verify import verify_collection

FLOWS = (index_corpus, reindex_corpus, verify_collection)
SILENCE = timedelta(seconds=90)
"""Without a heartbeat for so long a run is dead: three times the shortest interval that Prefect allows."""


def crash_zombies(silence: timedelta = SILENCE) -> Automation:
    """Return the automation that calls a run crashed when it neither ends nor is heard of any more.

    A machine that loses power reports nothing, and its run would stay "Running" and hold the place of the next one.
    Only heartbeats arm it: runs have them where `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` is set.

    Args:
        silence: Longer than two heartbeats are apart.
    """
    return Automation(
        name="kvembed: crash zombie runs",
        description="Marks a run as crashed when its heartbeats stop and it has not ended.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                "prefect.flow-run.Completed",
                "prefect.flow-run.Failed",
                "prefect.flow-run.Cancelled",
                "prefect.flow-run.Crashed",
            },
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": [flow.name for flow in FLOWS]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message=f"No heartbeat for {silence.total_seconds():.0f} s: its machine is gone.",
                force=False,
            )
        ],
    )


def register(automation: Automation) -> None:
    """Let the server hold this automation once, whatever it held under its name before."""
    with get_client(sync_client=True) as client:
        for known in client.read_automations_by_name(automation.name):
            client.delete_automation(known.id)
    automation.create()


if __name__ == "__main__":
    register(crash_zombies())
