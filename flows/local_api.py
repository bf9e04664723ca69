"""Prefect's API inside this process, for runs without a Prefect server.

Prefect's own answer is a server in a child process, which a killed flow leaves behind with its port and its database.
Here a thread serves the same application, so it ends when the process ends, however that happens. The run history is a
SQLite file in a folder per Prefect version: another installation's schema can neither break ours nor be broken by it.

Source: prefect 3.8 `prefect.server.api.server.SubprocessASGIServer`.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import urlsplit

import prefect
import uvicorn
from prefect import Flow, get_client
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import Settings, get_current_settings, temporary_settings
from prefect.utilities.asyncutils import run_coro_as_sync

from flows.hooks import release_lease
from pipelines.errors import TerminalError, TransientError
from pipelines.settings import load_settings

P = ParamSpec("P")
R = TypeVar("R")

_TALKATIVE = (
    "aiosqlite",
    "alembic",
    "docket",
    "fastapi",
    "prefect",
    "prefect._internal",
    "sqlalchemy",
    "uvicorn",
    "websockets",
)


class LocalFlow(Flow[P, R]):
    """A flow that also runs where no Prefect server is: called on its own, it brings the API with it."""

    if not TYPE_CHECKING:  # the overloads of Flow.__call__ stay what callers see

        def __call__(self, *args: object, **kwargs: object) -> object:
            """Run the flow; see `prefect.Flow.__call__`."""
            with prefect_api() if FlowRunContext.get() is None else contextlib.nullcontext():
                return super().__call__(*args, **kwargs)


def local_flow(*, name: str, run_name: str) -> Callable[[Callable[P, R]], LocalFlow[P, R]]:
    """Make a function a flow whose result stays in memory, and which leaves no lease however it ends.

    Args:
        name: Name of the flow in Prefect.
        run_name: Name of one run; parameters in braces.
    """
    return lambda function: LocalFlow(
        function,
        name=name,
        flow_run_name=run_name,
        persist_result=False,
        on_failure=[release_lease],
        on_crashed=[release_lease],
        on_cancellation=[release_lease],
    )


@contextlib.contextmanager
def prefect_api() -> Iterator[str]:
    """Give flows an API to report to, and keep Prefect off the terminal.

    A configured `PREFECT_API_URL` (environment, profile or prefect.toml) is used as it is. Prefect's log goes to the
    record of the run; it reaches the terminal only where `PREFECT_LOGGING_LEVEL` is set.

    Yields:
        URL of the API.

    Raises:
        TransientError: The configured API does not answer.
        TerminalError: The API of our own cannot start.
    """
    settings = get_current_settings()
    quiet = contextlib.nullcontext() if "level" in settings.logging.model_fields_set else _silenced()
    with quiet, _configured(settings.api.url) if settings.api.url else _own(settings) as url:
        yield url


@contextlib.contextmanager
def _configured(url: str) -> Iterator[str]:
    with get_client(sync_client=True) as client:
        if (failure := client.api_healthcheck()) is not None:
            raise TransientError(
                f"Prefect's API on {urlsplit(url).hostname} does not answer ({failure}); start it, "
                "or unset PREFECT_API_URL, also in the Prefect profile, to run without a server"
            )
    yield url


@contextlib.contextmanager
def _own(settings: Settings) -> Iterator[str]:
    home = settings.home if "home" in settings.model_fields_set else _own_home()
    with (
        temporary_settings(set_defaults=_own_settings(_writable(home))),
        _served() as url,
        temporary_settings({"api.url": url}),
    ):
        try:
            yield url
        finally:
            run_coro_as_sync(_drain())


def _own_home() -> Path:
    return load_settings().cache_dir.expanduser() / f"prefect-{prefect.__version__}"


def _writable(home: Path) -> Path:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return home
    except OSError as error:
        raise TerminalError(
            f"cannot keep the run history in {home}: {error.strerror}; "
            "set KVEMBED_CACHE_DIR or PREFECT_HOME to a writable folder, or run without --flow"
        ) from error


def _own_settings(home: Path) -> dict[str, object]:
    return {
        "home": home,
        "server.memo_store_path": home / "memo_store.toml",
        "results.local_storage_path": home / "storage",
        "server.analytics_enabled": False,
        "server.database.connection_url": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "server.ephemeral.startup_timeout_seconds": 120,
    }


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Cut the libraries of the API off from every terminal handler; handlers of the record stay."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.propagate = propagate


@contextlib.contextmanager
def _served() -> Iterator[str]:
    """Serve the API on a free port of the loopback interface for the length of the context."""
    # Importing the server takes seconds, and a configured API needs none of it.
    from prefect.server.api.server import create_app

    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A second run in this process needs a new application: a cached one does not start its services again.
        app = create_app(ephemeral=True, ignore_cache=True)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        # Prefect's settings live in a context variable, which a new thread does not inherit.
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(server.run, [listener]), name="prefect-api", daemon=True
        )
        try:
            _start(server, thread)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def _start(server: uvicorn.Server, thread: threading.Thread) -> None:
    limit = get_current_settings().server.ephemeral.startup_timeout_seconds
    deadline = time.monotonic() + limit
    with _errors_of("uvicorn.error") as messages:
        thread.start()
        while not server.started:
            if not thread.is_alive():
                cause = messages[0].strip().splitlines()[-1] if messages else "no reason given"
                raise TerminalError(
                    f"Prefect's API stopped while starting: {cause}; run without --flow to do without it"
                )
            if time.monotonic() > deadline:
                raise TerminalError(
                    f"Prefect's API did not start within {limit} s; set "
                    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS higher, or run without --flow"
                )
            time.sleep(0.02)


@contextlib.contextmanager
def _errors_of(name: str) -> Iterator[list[str]]:
    """Collect the errors that a logger is told, for a server that logs why it stops and raises nothing."""
    messages: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


async def _drain() -> None:
    """Send what is still queued for the record, before the API goes."""
    for finished in (APILogWorker.instance().drain(), EventsWorker.drain_all()):
        if inspect.isawaitable(finished):
            await finished
