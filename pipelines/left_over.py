"""The write lease of a run that was killed, given back by somebody who sees that it is dead.

Nothing depends on it: the next run on the same machine takes such a lease at once, one on another machine as soon as
the lease has run out. It is for the run that is looked at meanwhile, and for the next one elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.errors import StoreLockedError, StoreNotFoundError
from pipelines.lease import free_left_over
from pipelines.store import open_store

if TYPE_CHECKING:
    from pipelines.store import StoreLike


def release_left_over(store: StoreLike | None, name: str) -> str | None:
    """Give back the write lease of a name where its holder is known to be dead.

    That is known of a process of this machine, and of any in an embedded store, which one process at a time can open.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection.

    Returns:
        Who held it; None when it was nobody's, or its holder lives or may live.

    Raises:
        StoreError: the store refuses.
        StoreUnavailableError: no server answers.
    """
    try:
        with open_store(store, create=False) as opened:
            return free_left_over(opened, name)
    except (StoreNotFoundError, StoreLockedError):  # no run got as far as a lease, or whoever holds it has it open
        return None
