"""A bounded log of what happened at each revision. Followers are cursors into it, not queues.

Pure: imports no trio and wakes nobody. One copy serves any number of readers, so a slow one costs nothing and holds
nobody up; the price is that it can fall below the floor, and is then told so (`Compacted`), never silently moved.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from css.errors import Compacted


class HasRevision(Protocol):
    """An entry says its own revision; positions are found by bisection, never computed from revisions."""

    @property
    def revision(self) -> int: ...


T = TypeVar("T", bound=HasRevision)


class RevisionLog(Generic[T]):
    """Entries in revision order. What was at or below `floor` is no longer held; `head` is the last revision known.

    `weigh` gives an entry's share of `capacity` (for example its number of changes).
    """

    def __init__(self, head: int, *, capacity: int, weigh: Callable[[T], int]) -> None:
        self.floor = head
        self.head = head
        self._capacity = capacity
        self._weigh = weigh
        self._weight = 0
        self._entries: list[T] = []

    def __repr__(self) -> str:
        return (
            f"<RevisionLog ({self.floor}, {self.head}] {len(self._entries)} entries, {self._weight}/{self._capacity}>"
        )

    def append(self, entry: T) -> None:
        """Add what happened at a revision above the head."""
        if entry.revision <= self.head:
            raise ValueError(f"revision {entry.revision} does not follow {self.head}")
        self._entries.append(entry)
        self._weight += self._weigh(entry)
        self.head = entry.revision
        # Trimming to three quarters makes the shift of the list a constant cost per entry.
        if self._weight > self._capacity:
            self._trim(self._capacity * 3 // 4)

    def read(self, after: int) -> Sequence[T]:
        """Everything after the revision `after`, in order. Raises `Compacted` when that is not (or not yet) known."""
        if after < self.floor or after > self.head:
            raise Compacted(self.floor)
        return self._entries[bisect_right(self._entries, after, key=_revision) :]

    def compact(self, floor: int) -> None:
        """Let go of everything at or below `floor`."""
        self._drop(bisect_right(self._entries, floor, key=_revision))
        self.floor = max(self.floor, min(floor, self.head))

    def _trim(self, target: int) -> None:
        excess, count = self._weight - target, 0
        while excess > 0 and count < len(self._entries) - 1:
            excess -= self._weigh(self._entries[count])
            count += 1
        self._drop(count)

    def _drop(self, count: int) -> None:
        if count:
            self.floor = self._entries[count - 1].revision
            self._weight -= sum(map(self._weigh, self._entries[:count]))
            del self._entries[:count]


def _revision(entry: HasRevision) -> int:
    return entry.revision
