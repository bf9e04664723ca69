"""A sweep in a folder; `pipelines.evaluation.sweep_records` says what its files hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pipelines.errors import JSON, SourceError, TerminalError
from pipelines.evaluation.statistics import Estimate
from pipelines.evaluation.summaries import INTERVALS, TESTS
from pipelines.evaluation.sweep_records import (
    AxisResult,
    Difference,
    Measured,
    Nested,
    Point,
    Standing,
    Subset,
    SweepResult,
)

SCHEMA = 1
"""Version of the layout; raised when an older reader would misread it."""

Record = TypeVar("Record")
_SWEEP, _SCORES, _DRAFT = "sweep.json", "scores", ".draft-"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a configuration scored, and what that took.

    Attributes:
        per_query: Query id -> metric -> value.
        dimension: Numbers per vector.
        tokens: That went through the model.
        truncated: Chunks and queries of which something was cut.
        seconds: Of encoding, in the run that measured it; 0 where another configuration's vectors served.
    """

    per_query: Mapping[str, Mapping[str, float]]
    dimension: int
    tokens: int
    truncated: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ScoreFolder:
    """Configurations that were measured already; without a folder there are none.

    Attributes:
        root: The sweep's folder, or None.
    """

    root: Path | None

    def name(self, key: str) -> str:
        """Return the file of a key, relative to the folder; "" without one."""
        return "" if self.root is None else f"{_SCORES}/{key[:16]}.json"

    def read(self, key: str) -> Scored | None:
        """Return what was measured under a key; None where nothing was, or something else lies there.

        Args:
            key: Hash of all that decides the scores, 64 hexadecimal digits.
        """
        path = self.root / self.name(key) if self.root is not None else None
        if path is None or not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return Scored(**record["scored"]) if record["key"] == key else None
        except (KeyError, TypeError, ValueError):  # another layout: it is measured again
            return None

    def write(self, key: str, configuration: Mapping[str, JSON], scored: Scored) -> None:
        """Keep what was measured; a file is there whole or not at all.

        Args:
            key: As `read`.
            configuration: Says to a reader what it is.
            scored: What was measured.

        Raises:
            TerminalError: it cannot be written.
        """
        if self.root is None:
            return
        record = {"key": key, "configuration": configuration, "scored": asdict(scored)}
        _write_whole(self.root / self.name(key), json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def check_sweep_output(folder: str | Path) -> ScoreFolder:
    """Make the folder if need be, and refuse one that holds anything but a sweep.

    Raises:
        TerminalError: it cannot be written to, or something else lies there.
    """
    root = Path(folder).expanduser()
    try:
        (root / _SCORES).mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in root.iterdir())
    except OSError as error:
        raise TerminalError(f"a sweep cannot be written to {root}: {error}; choose another --output") from error
    other = [name for name in names if name not in (_SWEEP, _SCORES) and not name.startswith(_DRAFT)]
    if other:
        raise TerminalError(
            f"{root} holds other things than a sweep ({', '.join(other[:3])}); choose a new folder with --output"
        )
    return ScoreFolder(root)


def write_sweep(result: SweepResult, folder: str | Path) -> Path:
    """Write sweep.json, in place of an earlier one; scores that are not of this sweep stay for the next.

    Args:
        result: Its configurations name the files that `ScoreFolder.write` wrote.
        folder: Checked by `check_sweep_output`.

    Returns:
        The folder.

    Raises:
        TerminalError: it cannot be written.
    """
    root = check_sweep_output(folder).root or Path(folder)
    _write_whole(root / _SWEEP, json.dumps(sweep_record(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return root


def sweep_record(result: SweepResult) -> dict[str, JSON]:
    """Return what sweep.json holds, and `--json` prints."""
    record = asdict(result)
    record["configurations"] = [_configuration(one) for one in result.configurations]
    return {"schema": SCHEMA, **record, "interval": INTERVALS, "comparison": TESTS}


def read_sweep(folder: str | Path) -> SweepResult:
    """Read what `write_sweep` wrote, per-query values included.

    Raises:
        SourceError: there is no sweep, a file of it is missing or damaged, or a later version wrote it.
    """
    root = Path(folder).expanduser()
    try:
        record = json.loads((root / _SWEEP).read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise SourceError(f"{root} was written in layout {record['schema']}; this version reads {SCHEMA}")
        return _result(root, record)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{root} holds no sweep that can be read ({type(error).__name__}: {error}); "
            "write one with `kvembed sweep DATASET --output FOLDER`"
        ) from error


def _configuration(one: Measured) -> dict[str, JSON]:
    record = asdict(one)
    del record["per_query"]
    return {**record, "metrics": record.pop("estimates")}


def _result(root: Path, record: Mapping[str, object]) -> SweepResult:
    missing = [name for name in SweepResult.__slots__ if name not in record]
    if missing:
        raise KeyError(missing[0])
    kept = {name: record[name] for name in SweepResult.__slots__}
    return _made(
        SweepResult,
        kept,
        subset=_perhaps(Subset, record["subset"]),
        configurations=tuple(_measured(root, _fields(one)) for one in _items(record["configurations"])),
        axes=tuple(_axis(_fields(one)) for one in _items(record["axes"])),
        overall=None if record["overall"] is None else _nested(record["overall"]),
        standing=None if record["standing"] is None else _standing(_fields(record["standing"])),
        warnings=tuple(_items(record["warnings"])),
    )


def _measured(root: Path, record: Mapping[str, object]) -> Measured:
    per_query: object = {}
    if record["scores"]:
        per_query = json.loads((root / str(record["scores"])).read_text(encoding="utf-8"))["scored"]["per_query"]
    estimates = {name: _made(Estimate, values) for name, values in _fields(record["metrics"]).items()}
    kept = {name: value for name, value in record.items() if name != "metrics"}
    return _made(Measured, kept, layers=tuple(_items(record["layers"])), estimates=estimates, per_query=per_query)


def _axis(record: Mapping[str, object]) -> AxisResult:
    points = [
        _made(
            Point,
            one,
            estimate=_made(Estimate, _fields(one)["estimate"]),
            difference=_made(Difference, _fields(one)["difference"]),
        )
        for one in _items(record["points"])
    ]
    return _made(AxisResult, record, points=tuple(points), nested=_nested(record["nested"]))


def _nested(value: object) -> Nested:
    record = _fields(value)
    return _made(
        Nested,
        record,
        estimate=_made(Estimate, record["estimate"]),
        difference=_made(Difference, record["difference"]),
    )


def _standing(record: Mapping[str, object]) -> Standing:
    paired = {name: _perhaps(Difference, record[name]) for name in ("to_best", "to_none", "to_average", "to_nested")}
    return _made(Standing, record, layers=tuple(_items(record["layers"])), **paired)


def _made(kind: Callable[..., Record], value: object, **changed: object) -> Record:
    return kind(**{**_fields(value), **changed})


def _perhaps(kind: Callable[..., Record], value: object) -> Record | None:
    return None if value is None else _made(kind, value)


def _fields(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is no object")
    return value


def _items(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is no list")
    return value


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f"{_DRAFT}{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise TerminalError(f"a sweep cannot be written to {path.parent}: {error}; choose another --output") from error
