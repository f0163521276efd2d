"""What works now and how fresh the state is: one condition per part, each written by one actor. No I/O."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from css.wire import Freshness

_STARTING = "starting"


class Condition(msgspec.Struct, frozen=True):
    """Whether a part does its work; `why` is for people and says how far it is or what is wrong."""

    ok: bool
    why: str
    since: float
    """Seconds since the epoch of the last change of `ok`."""


class Status:
    """Conditions and freshness. `required` parts must all be ok for readiness; until they report they are not."""

    def __init__(self, required: Iterable[str] = ()) -> None:
        now = time.time()
        self.conditions: dict[str, Condition] = {part: Condition(False, _STARTING, now) for part in required}
        self.last_event_at: float | None = None
        self.event_lag: float | None = None
        self.queue_depth: int | None = None
        self.last_reconcile_at: float | None = None
        self.open_gaps = 0

    def __repr__(self) -> str:
        return f"<Status {'ready' if self.ready else self.missing()}>"

    def report(self, part: str, ok: bool, why: str = "") -> bool:
        """Say how `part` does. True when it was not known before or `ok` changed: the moment to log it."""
        old = self.conditions.get(part)
        changed = old is None or old.ok != ok or old.why == _STARTING
        since = time.time() if old is None or changed else old.since
        self.conditions[part] = Condition(ok, why, since)
        return changed

    def event(self, happened_at: float, arrived_at: float) -> None:
        """An event of `happened_at` (its envelope's time) arrived; both in seconds since the epoch."""
        self.last_event_at = max(happened_at, self.last_event_at or 0.0)
        self.event_lag = max(0.0, arrived_at - happened_at)

    @property
    def ready(self) -> bool:
        return all(condition.ok for condition in self.conditions.values())

    def missing(self) -> dict[str, str]:
        """The parts that are not ok, and why."""
        return {part: condition.why for part, condition in self.conditions.items() if not condition.ok}

    def freshness(self) -> Freshness:
        store = self.conditions.get("store")
        return Freshness(
            event_lag_seconds=None if self.event_lag is None else round(self.event_lag, 3),
            queue_depth=self.queue_depth,
            last_event_at=rfc3339(self.last_event_at),
            last_reconcile_at=rfc3339(self.last_reconcile_at),
            open_gaps=self.open_gaps,
            store_connected=store is not None and store.ok,
        )


def rfc3339(seconds: float | None) -> str | None:
    """`2026-01-31T12:00:00.123Z`, milliseconds, UTC."""
    if seconds is None:
        return None
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"
