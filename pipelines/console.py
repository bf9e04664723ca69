"""One command's mouth: its result on stdout, everything else on stderr, its errors in one message."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TextIO, TypeAlias

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from kvembed.errors import KVEmbedError
from pipelines.ending import Terminated, ending_in_order
from pipelines.errors import JSON, PipelineError, TerminalError
from pipelines.printable import paragraphs
from pipelines.progress import Stages, stage_bars

if TYPE_CHECKING:
    from pipelines.report import Progress

_log = logging.getLogger(__name__)

LogFormat: TypeAlias = Literal["text", "json"]
DONE, FAILED, QUARANTINED, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143


class Terminal:
    """Context of one command.

    Inside it stdout belongs to `emit` alone; whatever a library prints goes to stderr. Leaving it turns any exception,
    Ctrl-C and SIGTERM into one message and the exit code of the command line's contract.

    Args:
        json_mode: One JSON document on stdout, also for an error; progress is shown as ever, on stderr.
        debug: Show tracebacks.
        verbosity: 0 quiet, 1 a line per stage and Python's warnings, 2 also what libraries log.
        log_format: "json" logs one object a line to stderr, and nothing else goes there; None as the settings say.
    """

    def __init__(
        self,
        *,
        json_mode: bool = False,
        debug: bool = False,
        verbosity: int = 0,
        log_format: LogFormat | None = None,
    ) -> None:
        self.json_mode = json_mode
        self.debug = debug
        self.verbosity = verbosity
        self.log_format = log_format
        self.exit_code = DONE
        self.errors = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._stdout = sys.stdout
        self._stdout_failed = False
        self._json: logging.Handler | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Terminal:
        self._stdout = sys.stdout
        try:
            self._enter()
        except (PipelineError, ValueError) as error:
            self._stack.close()
            raise typer.Exit(self.report(error)) from None
        return self

    def _enter(self) -> None:
        from pipelines.exporting import exporting
        from pipelines.settings import load_settings

        self._stack.enter_context(ending_in_order())
        self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        self._stack.enter_context(warnings.catch_warnings())
        if not self.verbosity:
            warnings.simplefilter("ignore")
        if (self.log_format or load_settings().log_format) == "json":
            self._stack.enter_context(self._logging_json())
        else:
            self._stack.enter_context(self._logging())
        self._stack.enter_context(exporting(self.note))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if isinstance(error, typer.Exit | SystemExit):
            return
        if error is not None:
            raise typer.Exit(self.report(error)) from None
        if self.exit_code != DONE:
            raise typer.Exit(self.exit_code)

    def emit(self, record: Mapping[str, JSON], render: Callable[[Console], None]) -> None:
        """Print the command's result.

        Args:
            record: What `--json` prints.
            render: Prints the same for a person.
        """
        with self._writing():
            if self.json_mode:
                self._write(json.dumps(record, indent=2, allow_nan=False, default=str) + "\n")
                return
            console = Console(file=self._stdout, markup=False, emoji=False, highlight=False)
            with console.capture() as captured:
                render(console)
            self._write(captured.get())

    def note(self, message: str, style: str = "yellow") -> None:
        """Print one line on stderr, in every mode."""
        self._log_json(logging.WARNING, message)
        self.errors.print(Text(paragraphs(message), style=style))

    def report(self, error: BaseException) -> int:
        """Say in one message what went wrong, and return the exit code."""
        code, message = explain(error)
        self._log_json(logging.ERROR, message, error if self.debug else None, exit_code=code)
        if self.debug and code == FAILED:
            self.errors.print(Text(paragraphs("".join(traceback.format_exception(error)).rstrip())))
        if self.json_mode and not self._stdout_failed:
            record = {"error": {"type": type(error).__name__, "message": message}}
            with self._writing():
                self._write(json.dumps(record, indent=2) + "\n")
        elif message:
            self.errors.print(Text.assemble(("Error: ", "bold red"), paragraphs(message)))
        return code

    @contextlib.contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        """Show that something without countable steps is going on."""
        stages = Stages(lines=self.errors if self.verbosity else None)
        stages(message, 0, None)
        with self.errors.status(message) if self.errors.is_terminal else contextlib.nullcontext():
            yield
        stages.finish()

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Give a callback `(stage, done, total)` that moves one bar per stage on a terminal's stderr."""
        bars = stage_bars(self.errors) if self.errors.is_terminal else None
        stages = Stages(bars, self.errors if self.verbosity else None)
        with bars or contextlib.nullcontext():
            yield stages
            stages.finish()

    def _write(self, text: str) -> None:
        if self._stdout is not None:
            self._stdout.write(text)
            self._stdout.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Take a stdout that cannot be written for what it is; a reader that went away is no error of ours."""
        try:
            yield
        except OSError as error:
            self._stdout_failed = True
            discard_output(self._stdout)
            if error.errno != errno.EPIPE:
                raise TerminalError(f"the result cannot be written to stdout: {error.strerror}") from error

    @contextlib.contextmanager
    def _logging_json(self) -> Iterator[None]:
        """Log what this package does, of libraries what goes wrong, and with -vv all of both."""
        from pipelines import logs

        self._json = logs.json_lines(sys.stderr)
        self.errors = Console(stderr=True, quiet=True, force_terminal=False)
        loggers = [logging.getLogger(), *map(logging.getLogger, logs.OURS)]
        before = [one.level for one in loggers]
        loggers[0].addHandler(self._json)
        for one, level in zip(loggers, logs.levels(self.verbosity), strict=True):
            one.setLevel(level)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            loggers[0].removeHandler(self._json)
            for one, level in zip(loggers, before, strict=True):
                one.setLevel(level)

    def _log_json(self, level: int, message: str, error: BaseException | None = None, **known: int) -> None:
        """Write a record of the command's own, where stderr takes JSON; also when all else has been ended."""
        if self._json is None or not message:
            return
        trace = (type(error), error, error.__traceback__) if error is not None else None
        self._json.handle(_log.makeRecord(_log.name, level, "", 0, message, (), trace, extra=known))

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Keep what libraries log to errors, or to what -vv asks for, and say what is waited for; all on stderr."""
        handler = RichHandler(console=self.errors, show_path=False, rich_tracebacks=False)
        root = logging.getLogger()
        before = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO if self.verbosity > 1 else logging.ERROR)
        waits = logging.getLogger("pipelines.retrying")
        noting = _Noting(self)
        waits.addHandler(noting)
        waits.setLevel(logging.WARNING)
        waits.propagate = False
        try:
            yield
        finally:
            waits.removeHandler(noting)
            waits.setLevel(logging.NOTSET)
            waits.propagate = True
            root.removeHandler(handler)
            root.setLevel(before)


class _Noting(logging.Handler):
    """Prints each record as a line of its own."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.note(record.getMessage())


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one message for an error."""
    if isinstance(error, KeyboardInterrupt):
        code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
        return code, "stopped; what was committed stays, and the same command continues from there"
    if isinstance(error, KVEmbedError | PipelineError):
        return FAILED, str(error) or type(error).__name__
    if isinstance(error, typer.TyperException):
        return error.exit_code, error.format_message()
    first_line = (str(error).strip().splitlines() or [""])[0]
    summary = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return FAILED, f"{summary} (unexpected; run again with --debug for the traceback)"


def discard_output(stream: TextIO) -> None:
    """Point a dead stdout at nothing, so that the interpreter's last flush stays silent."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
