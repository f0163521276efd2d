"""Between the client's thread and the screen's: what changed since the screen looked last, the newest of each task.

However fast changes come, the screen takes them five times a second, and each task once. Never calls either side.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from threading import Lock

import msgspec

from css.client import State, Update
from css.model import Key
from css.wire import Bookmark, Changes, Freshness, Hello, Snapshot
from tui.rows import Task, timestamp


class Facts(msgspec.Struct, frozen=True):
    """What is known of the connection and the server. `since` (seconds since 1970) is when `state` began."""

    state: State = State("connecting")
    since: float = 0.0
    revision: int = 0
    region: str = ""
    lag: float | None = None
    clock: float = 0.0
    """The server's clock less ours, in seconds."""
    changes: int = 0
    """Of tasks, since the start."""
    fresh_at: float = 0.0
    """When the server was last known to have told everything, in seconds since 1970; 0 before the first time."""


class Inbox:
    """One side posts, the other takes; both under one lock, held briefly."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._puts: dict[Key, Task] = {}
        self._gone: set[Key] = set()
        self._facts = Facts(since=time.time())

    def post(self, update: Update, tasks: Sequence[Task] = (), gone: Collection[Key] = ()) -> None:
        """What a message (or a new state) means: these tasks, these keys, and what it tells of the server."""
        with self._lock:
            for task in tasks:
                self._puts[task.key] = task
                self._gone.discard(task.key)
            for key in gone:
                self._puts.pop(key, None)
                self._gone.add(key)
            self._facts = _learn(self._facts, update)

    def facts(self) -> Facts:
        with self._lock:
            return self._facts

    def waiting(self) -> int:
        """How many tasks have changed since the last `take`."""
        with self._lock:
            return len(self._puts) + len(self._gone)

    def take(self) -> tuple[dict[Key, Task], set[Key]]:
        """What to put and what to remove; the inbox is empty then."""
        with self._lock:
            taken = self._puts, self._gone
            self._puts, self._gone = {}, set()
            return taken


def _learn(facts: Facts, update: Update) -> Facts:
    replace = msgspec.structs.replace
    match update:
        case State():
            return replace(facts, state=update, since=time.time())
        case Hello(region=region, time=told, revision=revision):
            clock = timestamp(told) - time.time() if timestamp(told) else 0.0
            return replace(facts, region=region, clock=clock, revision=revision)
        case Snapshot(revision=revision, done=done):
            return replace(facts, revision=revision, fresh_at=time.time() if done else facts.fresh_at)
        case Changes(revision=revision, changes=changes):
            return replace(facts, revision=revision, changes=facts.changes + len(changes), fresh_at=time.time())
        case Bookmark(revision=revision, freshness=Freshness(event_lag_seconds=lag)):
            return replace(facts, revision=revision, lag=lag, fresh_at=time.time())
    return facts
