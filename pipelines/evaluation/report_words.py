"""Numbers and settings as a report writes them, the same in its tables and in what is read out of its drawings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.evaluation.statistics import Estimate

from pipelines.printable import line

NOTHING = "–"

_HALF_CHARACTERS = re.compile(r"[\ud800-\udfff]")
_TURNING = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown(text: str, limit: int = 600) -> str:
    """Write a text of the data in one line, without what turns the direction of the text around it.

    Args:
        text: Any.
        limit: Characters.
    """
    whole = " ".join(line(_TURNING.sub("", _HALF_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text))).split())
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"


def signed(number: float, digits: int = 4, sign: str = "+") -> str:
    """Write a number with a minus as wide as a plus, and no sign before what rounds to 0.

    Args:
        number: Any.
        digits: After the point.
        sign: "+" writes the plus too, "" does not.
    """
    text = f"{number:{sign}.{digits}f}"
    return text[1:] if text[0] in "+-" and not float(text) else text.replace("-", "−")


def number(value: float | None, form: str = ",") -> str:
    """Write a number, or a dash where there is none."""
    return NOTHING if value is None else format(value, form)


def mean_and_interval(estimate: Estimate, sign: str = "") -> str:
    """Write the mean, and its interval in a line below it."""
    return f"{signed(estimate.mean, sign=sign)}\n{interval(estimate.low, estimate.high, sign)}"


def interval(low: float, high: float, sign: str = "+") -> str:
    """Write the two ends of an interval."""
    return f"{signed(low, sign=sign)} to {signed(high, sign=sign)}"


def p_value(value: float) -> str:
    """Write a p value; one that four digits cannot tell from 0 as less than the least of them."""
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def spoken(named: Iterable[tuple[str, Estimate]], sign: str = "") -> str:
    """Write named means with their intervals in one sentence."""
    return "; ".join(
        f"{name} {signed(one.mean, 3, sign)} ({signed(one.low, 3, sign)} to {signed(one.high, 3, sign)})"
        for name, one in named
    )


def plain(value: JSON) -> str:
    """Write a setting's value."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and not any(isinstance(one, list | dict) for one in value):
        return ", ".join(plain(one) for one in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
