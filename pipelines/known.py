"""What a ledger says, in a few bytes a document: enough to see that most documents did not change.

One pass over the ledger fills it, so that a run over a source without changes asks the store for nothing more.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipelines.documents import Document
    from pipelines.ledger import LedgerEntry

_COMMITTED, _PLAIN, _SEEN = 1, 2, 4


class KnownDocuments:
    """Documents of a ledger by 128 bits of their ids, with 64 bits of their content; 25 bytes each.

    Args:
        entries: All of a ledger, in brief.
    """

    def __init__(self, entries: Iterable[LedgerEntry] = ()) -> None:
        high, low, contents, flags = array("Q"), array("Q"), array("Q"), bytearray()
        self.committed = 0
        """Documents with a searchable form."""
        self.points = 0
        """Points that all entries name."""
        for entry in entries:
            first, second = _key(entry.document_id)
            high.append(first)
            low.append(second)
            contents.append(int(entry.content_hash[:16] or "0", 16) if entry.is_plain else 0)
            flags.append(entry.committed * _COMMITTED + entry.is_plain * _PLAIN)
            self.committed += entry.committed
            self.points += entry.points if entry.committed else 0
        order = np.argsort(np.frombuffer(high, dtype=np.uint64), kind="stable") if high else np.empty(0, dtype=np.int64)
        self._high = _ordered(high, order)
        self._low = _ordered(low, order)
        self._contents = _ordered(contents, order)
        self._flags = bytearray(np.frombuffer(flags, dtype=np.uint8)[order].tobytes()) if flags else flags
        self._others: set[int] = set()  # of ids that the ledger does not have
        self._count = 0

    @property
    def seen(self) -> int:
        """How many ids were noted."""
        return self._count

    def note(self, document_id: str) -> bool:
        """Note an id of the source; False when it was noted before."""
        key = _key(document_id)
        place = self._place(key)
        if self._was_noted(key, place):
            return False
        self._count += 1
        if place is None:
            self._others.add(key[0] << 64 | key[1])
        else:
            self._flags[place] |= _SEEN
        return True

    def has(self, document_id: str) -> bool:
        """Tell whether an id was noted."""
        key = _key(document_id)
        return self._was_noted(key, self._place(key))

    def was_committed(self, document_id: str) -> bool:
        """Tell whether the ledger had a searchable form of a document."""
        place = self._place(_key(document_id))
        return place is not None and bool(self._flags[place] & _COMMITTED)

    def is_unchanged(self, document: Document) -> bool:
        """Tell that the ledger has this very form of a document, whole and without trouble; False settles nothing."""
        place = self._place(_key(document.id))
        if place is None or not self._flags[place] & _PLAIN:
            return False
        return self._contents[place] == int(document.content_hash[:16], 16)

    def misses_any(self) -> bool:
        """Tell whether an id of the ledger was not noted."""
        return any(not flags & _SEEN for flags in self._flags)

    def _was_noted(self, key: tuple[int, int], place: int | None) -> bool:
        if place is None:
            return (key[0] << 64 | key[1]) in self._others
        return bool(self._flags[place] & _SEEN)

    def _place(self, key: tuple[int, int]) -> int | None:
        place = bisect_left(self._high, key[0])
        while place < len(self._high) and self._high[place] == key[0]:
            if self._low[place] == key[1]:
                return place
            place += 1
        return None


def _ordered(values: array[int], order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> array[int]:
    found = array("Q")
    if values:
        found.frombytes(np.frombuffer(values, dtype=np.uint64)[order].tobytes())
    return found


def _key(document_id: str) -> tuple[int, int]:
    digest = hashlib.blake2b(document_id.encode("utf-8"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
