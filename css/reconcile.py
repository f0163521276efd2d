"""Repair of drift against the ECS API: the pure rules of what a listing means, then the actor that lists.

A second source, never a second writer: its corrections go the way of every change. It removes an object only when its
account, region and cluster were listed completely after the object was last seen, it was absent, and Describe knows it
no more; the removal applies only to the revision that was seen before the listing began.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import msgspec
import structlog
import trio

from css import arn, envelope
from css.backoff import Backoff
from css.config import Reconcile as Settings
from css.drift import ClusterDrift, DriftLedger, DriftReport
from css.ecs import PAGE, EcsApi
from css.errors import Rejected, Unavailable
from css.follow import Live
from css.metrics import Metrics
from css.model import Change, Delivery, Gone, Key, Kind, Put, supersedes
from css.status import Status, rfc3339
from css.view import Row, View

_log = structlog.get_logger()
T = TypeVar("T")

KINDS: tuple[Kind, ...] = ("task", "instance")

# Clusters side by side: each has at most a page of objects in hand, so this bounds the memory of a pass.
_CLUSTERS = 8

# Stands for all clusters in a report whose list of clusters could not be had.
_EVERYTHING = "*"

# Members that events have and Describe never gives: what is known of them stays known.
_EVENT_ONLY: Mapping[Kind, tuple[str, ...]] = {"instance": ("accountType",)}


def merged(put: Put, row: Row | None) -> Put:
    """The described object with what only events say of it; nothing else of the old state survives."""
    names = _EVENT_ONLY.get(put.key.kind, ())
    if row is None or not names:
        return put
    known = msgspec.json.decode(row.detail)
    kept = {name: known[name] for name in names if envelope.is_object(known) and name in known}
    if not kept:
        return put
    whole = msgspec.json.decode(put.body)
    whole["detail"] = kept | whole["detail"]
    return msgspec.structs.replace(put, body=msgspec.json.encode(whole))


def corrections(puts: Iterable[Put], view: View, drift: ClusterDrift) -> list[Change]:
    """The puts that are news to the view, counted as missed or stale. Lower and equal versions are dropped."""
    news: list[Change] = []
    for put in puts:
        known = view.known(put.key)
        if not supersedes(put.version, known):
            continue
        row = view.row(put.key)
        if row is None:
            drift.missed += 1
        else:
            drift.stale += 1
        news.append(merged(put, row))
    return news


def removals(absent: Iterable[Row], unsure: frozenset[str]) -> list[Change]:
    """The absent rows' removals, each for just the revision that was seen before the listing."""
    return [Gone(row.key, row.version, row.revision) for row in absent if row.key.id not in unsure]


def held(view: View, kind: Kind, cluster: str) -> list[Row]:
    """The rows of a cluster (its ARN): of its name, account and region, since a store may hold several of each."""
    owner = arn.parse(cluster, type="cluster")
    return [row for row in view.indexed(kind, "cluster", owner.id) if _place(row.key) == (owner.account, owner.region)]


def vanished(rows: Iterable[Row], clusters: Sequence[str]) -> dict[str, list[Row]]:
    """Those of the rows whose cluster is not in a complete list of clusters, by cluster name.

    Only in the accounts and regions of the clusters that are listed: an account without any cluster cannot be told from
    another account whose state shares the store, so nothing is removed on the word of an empty list.
    """
    owners = [arn.parse(cluster, type="cluster") for cluster in clusters]
    places = {(owner.account, owner.region) for owner in owners}
    listed = {(owner.account, owner.region, owner.id) for owner in owners}
    found: dict[str, list[Row]] = {}
    for row in rows:
        place = _place(row.key)
        if place in places and (*place, row.key.cluster) not in listed:
            found.setdefault(row.key.cluster, []).append(row)
    return found


def _place(key: Key) -> tuple[str, str]:
    """Account and region of an object."""
    try:
        this = arn.parse(key.id)
    except Rejected:
        return "", ""
    return this.account, this.region


class Pass:
    """One pass over the clusters of an account and region; used once."""

    def __init__(
        self,
        api: EcsApi,
        live: Live,
        deliveries: trio.MemorySendChannel[Sequence[Delivery]],
        clusters: Sequence[str],
        status: Status,
    ) -> None:
        self._api = api
        self._view = live.view
        self._deliveries = deliveries
        self._patterns = clusters
        self._status = status
        self.drift: dict[str, ClusterDrift] = {}
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
                self.drift[name] = ClusterDrift(gone=len(rows))
                await self._deliver(removals(rows, frozenset()))

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
            for page in _pages(listed):
                nursery.start_soon(self._page, kind, cluster, page, drift)
        present = {*listed}
        for rows in _pages([row for row in before if row.key.id not in present]):
            answer = await self._api.describe(kind, cluster, [row.key.id for row in rows])
            found = {put.key for put in answer.puts}
            changes = removals((row for row in rows if row.key not in found), answer.unsure)
            drift.gone += len(changes)
            await self._deliver(changes + corrections(answer.puts, self._view, drift))

    async def _page(self, kind: Kind, cluster: str, arns: Sequence[str], drift: ClusterDrift) -> None:
        answer = await self._api.describe(kind, cluster, arns)
        await self._deliver(corrections(answer.puts, self._view, drift))

    async def _deliver(self, changes: Sequence[Change]) -> None:
        if changes:
            self._unsettled += 1
            await self._deliveries.send([Delivery(tuple(changes), self._settle)])

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
    bootstrap = not any(live.view.count(kind) for kind in KINDS)
    async with deliveries:
        while True:
            report = await _one_pass(Pass(api, live, deliveries, settings.clusters, status), api, bootstrap)
            ledger.add(report)
            _account_for(report, status, metrics)
            if report.complete:
                bootstrap = False
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
    totals = {what: sum(getattr(drift, what) for drift in clusters.values()) for what in ("missed", "stale", "gone")}
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


def _pages(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + PAGE] for start in range(0, len(items), PAGE)]


def _leaves(group: BaseExceptionGroup[Unavailable]) -> list[Unavailable]:
    found: list[Unavailable] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
