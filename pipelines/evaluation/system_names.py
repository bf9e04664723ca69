"""Names of systems: how a command asks for them, and how an encoder is called among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvembed.methods import Method

if TYPE_CHECKING:
    from kvembed import EncoderConfig

ALL = "all"
BM25, BM25_DOCUMENTS, NO_REROUTING = "bm25", "bm25-documents", "no-rerouting"
BASELINES = (
    *(BM25, BM25_DOCUMENTS, Method.STATIC.value, Method.LAST_TOKEN.value, Method.MEAN.value),
    *(Method.PROMPT_EOL.value, Method.ECHO.value, Method.TOKEN_PREPENDING.value),
    *(NO_REROUTING, Method.KV_REROUTING.value),
)
"""Names of what may stand beside a system.

"no-rerouting" is re-routing's prompts and pooling over the stock model; the other names of encoders are their methods.
"""


def parse_beside(texts: Sequence[str]) -> tuple[str, ...]:
    """Read names separated by commas, or `all`.

    Args:
        texts: As given on a command line.

    Returns:
        Names of `BASELINES`, each once, in the order given; of `all` all of them.

    Raises:
        ValueError: no such name; naming those there are.
    """
    names = [part.strip().lower() for text in texts for part in text.split(",")]
    if unknown := [name for name in names if name not in (*BASELINES, ALL)]:
        raise ValueError(f"{unknown[0]!r} is no system; legal are {', '.join(BASELINES)}, and all")
    return BASELINES if ALL in names else tuple(dict.fromkeys(names))


def system_name(config: EncoderConfig) -> str:
    """Name an encoder as the baselines are named: by its method, and re-routing that re-routes nowhere by that."""
    closed = config.layers == () or config.prefix_bias == float("-inf")
    return NO_REROUTING if config.method is Method.KV_REROUTING and closed else config.method.value
