"""The drift ledger: what each reconcile pass found that the events had not said. Pure data."""

from __future__ import annotations

from collections import deque

import msgspec


class ClusterDrift(msgspec.Struct, rename="camel"):
    """One cluster in one pass. `error` is "" when it was listed completely."""

    seen: int = 0
    missed: int = 0
    """Objects the ECS API has and the store did not."""
    stale: int = 0
    """Objects whose version at the ECS API was higher."""
    gone: int = 0
    """Objects the store had and the ECS API has no more."""
    error: str = ""


class DriftReport(msgspec.Struct, rename="camel"):
    """One pass. Times are RFC 3339 UTC, `duration` is in seconds."""

    started_at: str
    duration: float
    calls: int
    complete: bool
    bootstrap: bool
    """The first pass into an empty store: what it found missing was never an event's fault."""
    clusters: dict[str, ClusterDrift]

    @property
    def corrections(self) -> int:
        return sum(c.missed + c.stale + c.gone for c in self.clusters.values())


class DriftLedger:
    """The last passes, newest last."""

    def __init__(self, capacity: int = 100) -> None:
        self.reports: deque[DriftReport] = deque(maxlen=capacity)

    def __repr__(self) -> str:
        return f"<DriftLedger {len(self.reports)} passes>"

    def add(self, report: DriftReport) -> None:
        self.reports.append(report)
