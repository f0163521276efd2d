"""Repair of drift against the ECS API: the actor that lists every cluster, by the rules of `corrections`.

A second source, never a second writer: its corrections go the way of every change, through the same gate.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import structlog
import trio

from css import arn
from css.backoff import Backoff
from css.config import Reconcile as Settings
from css.corrections import ahead, corrections, held, newer, removals, vanished
from css.drift import ClusterDrift, DriftLedger, DriftReport
from css.ecs import PAGE, EcsApi
from css.errors import Unavailable
from css.follow import Live
from css.metrics import Metrics
from css.model import Change, Delivery, Key, Kind, Put
from css.status import Status, rfc3339
from css.view import Row

_log = structlog.get_logger()
T = TypeVar("T")

KINDS: tuple[Kind, ...] = ("task", "instance")
WHAT = ("missed", "stale", "gone", "ahead")

# Clusters side by side, and pages described but not yet handed on: what bounds the memory of a pass.
_CLUSTERS = 8
_PAGES = 8

# What changed a moment ago is told by an event that is still under way. So a page's corrections, when they are few,
# wait until so many seconds after the last page; only what no event has told by then is sent, and counted. Many are no
# race, and would be too much to keep.
_GRACE = 5.0
_FEW = 10

# Stands for all clusters in a report whose list of clusters could not be had.
_EVERYTHING = "*"


class Pass:
    """One pass over the clusters of an account and region; used once."""

    def __init__(
        self,
        api: EcsApi,
        live: Live,
        deliveries: trio.MemorySendChannel[Sequence[Delivery]],
        clusters: Sequence[str],
        status: Status,
        grace: float = 0.0,
        suspects: Mapping[Key, int] | None = None,
    ) -> None:
        """`clusters` are globs of names, none: all. `suspects` is what was `ahead` in the complete pass before."""
        self._api = api
        self._view = live.view
        self._deliveries = deliveries
        self._patterns = clusters
        self._status = status
        self._grace = grace
        self._suspects = suspects or {}
        self._pages = trio.CapacityLimiter(_PAGES)
        self.drift: dict[str, ClusterDrift] = {}
        self.ahead: dict[Key, int] = {}
        self._doubtful: list[tuple[Sequence[Put], ClusterDrift]] = []
        self._done = 0
        self._unsettled = 0
        self._settled = trio.Event()

    def __repr__(self) -> str:
        return f"<Pass {self._progress()}>"

    async def run(self) -> None:
        """List every cluster; deliver the corrections and wait until they are durable. Raises `Unavailable`.

        A cluster's own error is in its drift; the others' results stand.
        """
        # What is absent from a listing must have been seen before it began.
        before = [row for kind in KINDS for row in self._view.rows(kind)]
        everything = await self._api.clusters()
        wanted = [cluster for cluster in everything if self._is_wanted(arn.short_id(cluster))]
        self.drift = {cluster: ClusterDrift() for cluster in map(arn.short_id, wanted)}
        limiter = trio.CapacityLimiter(_CLUSTERS)
        async with trio.open_nursery() as nursery:
            for cluster in wanted:
                nursery.start_soon(self._cluster, cluster, limiter)
        await self._correct_what_no_event_told()
        await self._remove_vanished(before, everything)
        while self._unsettled:
            await self._settled.wait()

    async def _remove_vanished(self, before: Sequence[Row], everything: Sequence[str]) -> None:
        """The objects of clusters that are in neither of two complete lists: one list alone may lag behind."""
        if not vanished(before, everything):
            return
        again = await self._api.clusters()
        for name, rows in vanished(before, [*everything, *again]).items():
            if self._is_wanted(name):
                changes = removals(rows, self._view)
                self.drift[name] = ClusterDrift(gone=len(changes))
                await self._deliver(changes)

    def _is_wanted(self, name: str) -> bool:
        return not self._patterns or any(fnmatchcase(name, pattern) for pattern in self._patterns)

    async def _cluster(self, cluster: str, limiter: trio.CapacityLimiter) -> None:
        drift = self.drift[arn.short_id(cluster)]
        async with limiter:
            try:
                for kind in KINDS:
                    await self._kind(kind, cluster, drift)
            except* Unavailable as group:
                drift.error = "; ".join(sorted({error.why for error in _leaves(group)}))
        self._done += 1
        condition = self._status.conditions.get("reconcile")
        if condition is None or not condition.ok:  # once ready, a pass under way is no news
            self._status.report("reconcile", False, self._progress())

    async def _kind(self, kind: Kind, cluster: str, drift: ClusterDrift) -> None:
        before = held(self._view, kind, cluster)  # what is absent from a listing must have been seen before it began
        listed = await self._api.arns(kind, cluster)
        drift.seen += len(listed)
        async with trio.open_nursery() as nursery:
            for page in _paged(listed):
                nursery.start_soon(self._page, kind, cluster, page, drift)
        present = {*listed}
        for rows in _paged([row for row in before if row.key.id not in present]):
            answer = await self._api.describe(kind, cluster, [row.key.id for row in rows])
            found = {put.key for put in answer.puts}
            changes = removals((row for row in rows if row.key not in found), self._view, answer.unsure)
            drift.gone += len(changes)
            await self._deliver(changes + corrections(answer.puts, self._view, drift))

    async def _page(self, kind: Kind, cluster: str, arns: Sequence[str], drift: ClusterDrift) -> None:
        async with self._pages:
            answer = await self._api.describe(kind, cluster, arns)
            self._compare(ahead(answer.puts, self._view), drift)
            news = newer(answer.puts, self._view)
            if news and self._grace and len(news) <= _FEW:
                self._doubtful.append((news, drift))
            else:
                await self._deliver(corrections(news, self._view, drift))

    async def _correct_what_no_event_told(self) -> None:
        if self._doubtful:
            await trio.sleep(self._grace)
        for news, drift in self._doubtful:
            await self._deliver(corrections(news, self._view, drift))

    def _compare(self, rows: Mapping[Key, int], drift: ClusterDrift) -> None:
        self.ahead.update(rows)
        drift.ahead += sum(self._suspects.get(key) == revision for key, revision in rows.items())

    async def _deliver(self, changes: Sequence[Change]) -> None:
        if changes:
            await self._deliveries.send([Delivery(tuple(changes), self._settle)])
            self._unsettled += 1  # only now: a sending that a failed neighbour cancelled is never settled

    def _settle(self) -> None:
        self._unsettled -= 1
        self._settled.set()
        self._settled = trio.Event()

    def _progress(self) -> str:
        objects = sum(drift.seen for drift in self.drift.values())
        return f"{self._done} of {len(self.drift)} clusters, {objects:,} objects"


async def reconcile(
    api: EcsApi,
    live: Live,
    deliveries: trio.MemorySendChannel[Sequence[Delivery]],
    settings: Settings,
    status: Status,
    metrics: Metrics,
    ledger: DriftLedger,
) -> None:
    """The actor: a pass at once and then every `interval` (with jitter), until cancelled. Ready after a complete one.

    A pass that was not complete is tried again soon; meanwhile the service is not ready, and says why.
    """
    backoff = Backoff(first=5.0, most=settings.interval)
    grace, suspects = min(_GRACE, settings.interval / 10), dict[Key, int]()
    bootstrap = True
    async with deliveries:
        while True:
            one = Pass(api, live, deliveries, settings.clusters, status, 0.0 if bootstrap else grace, suspects)
            report = await _one_pass(one, api, bootstrap)
            ledger.add(report)
            _account_for(report, status, metrics)
            if report.complete:
                bootstrap, suspects = False, one.ahead
                backoff.reset()
                await trio.sleep(settings.interval * random.uniform(0.9, 1.1))
            else:
                await trio.sleep(backoff.next())


async def _one_pass(one: Pass, api: EcsApi, bootstrap: bool) -> DriftReport:
    started, begun, calls = time.time(), trio.current_time(), api.calls
    try:
        await one.run()
    except Unavailable as error:
        one.drift[_EVERYTHING] = ClusterDrift(error=error.why)
    return DriftReport(
        started_at=rfc3339(started) or "",
        duration=round(trio.current_time() - begun, 3),
        calls=api.calls - calls,
        complete=not any(drift.error for drift in one.drift.values()),
        bootstrap=bootstrap,
        clusters=one.drift,
    )


def _account_for(report: DriftReport, status: Status, metrics: Metrics) -> None:
    """Tell of a pass: the log, the metrics, readiness."""
    clusters = report.clusters
    totals = {what: sum(getattr(drift, what) for drift in clusters.values()) for what in WHAT}
    for what, count in totals.items():
        metrics.drift.labels("bootstrap" if report.bootstrap else "events", what).inc(count)
    metrics.reconciles.labels("complete" if report.complete else "incomplete").inc()
    failed = {name: drift.error for name, drift in clusters.items() if drift.error}
    if report.complete:
        status.last_reconcile_at = time.time()
        status.report("reconcile", True)
    else:
        name, error = next(iter(failed.items()))
        status.report("reconcile", False, f"{len(failed)} of {len(clusters)} clusters failed: {name}: {error}")
    if totals["ahead"]:
        where = [name for name, drift in clusters.items() if drift.ahead]
        _log.warning("versions above those of the ECS API: no event can be newer", objects=totals["ahead"], where=where)
    say = _log.info if report.complete else _log.warning
    say(
        "reconciled" if report.complete else "reconciled in part",
        clusters=len(clusters),
        seen=sum(drift.seen for drift in clusters.values()),
        **totals,
        calls=report.calls,
        seconds=report.duration,
        **({"failed": failed} if failed else {}),
    )


def _paged(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + PAGE] for start in range(0, len(items), PAGE)]


def _leaves(group: BaseExceptionGroup[Unavailable]) -> list[Unavailable]:
    found: list[Unavailable] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
