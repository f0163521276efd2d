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
    ahead: int = 0
    """Objects whose version here has been higher than the ECS API's since the pass before: no event can be newer."""


class DriftReport(msgspec.Struct, rename="camel"):
    """One pass. Times are RFC 3339 UTC, `duration` is in seconds."""

    started_at: str
    duration: float
    calls: int
    complete: bool
    bootstrap: bool
    """Of the passes up to the first complete one: what they found may have happened while nobody listened."""
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
