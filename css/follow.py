"""The way out of the store: its snapshot and watch become the view and the log that every reader uses.

Only what the watch brings back is visible, on this replica as on any other. Lists again when the store has compacted
what was missed; resumes exactly after a lost connection; never reports a connection it has not confirmed.
"""

from __future__ import annotations

from functools import partial

import structlog
import trio

from css.backoff import Backoff
from css.errors import Compacted, Unavailable
from css.log import RevisionLog
from css.metrics import Metrics
from css.model import KINDS, Batch, Head, Record
from css.status import Status
from css.store import Store
from css.view import Step, View

# Changes a follower may lag behind before it must start over: with rows of 3 kB at most 30 MB, that rows no longer
# current cost.
LOG_CAPACITY = 10_000

_log = structlog.get_logger()


class Live:
    """The view, the log of its steps, and the announcement that they moved (that, not what: readers look)."""

    def __init__(self) -> None:
        self.view = View()
        self.log = _new_log(0)
        self.loaded = False
        """Whether a snapshot is in: until then an empty answer would be a lie."""
        self._moved = trio.Event()

    def __repr__(self) -> str:
        return f"<Live {self.view!r} {self.log!r}>"

    @property
    def moved(self) -> trio.Event:
        """Set at the next change. Take it before looking at the log, so that no wake-up is lost in between."""
        return self._moved

    def load(self, head: Head, records: list[Record]) -> None:
        """Start over from a snapshot; followers find themselves below the log's floor."""
        self.view.load(head, records)
        self.log = _new_log(head.revision)
        self.loaded = True
        self._announce()

    def apply(self, batch: Batch) -> None:
        self.log.append(self.view.apply(batch))
        self._announce()

    def _announce(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


def _new_log(head: int) -> RevisionLog[Step]:
    return RevisionLog(head, capacity=LOG_CAPACITY, weigh=lambda step: max(1, len(step.changes)))


async def follow(
    store: Store,
    live: Live,
    status: Status,
    metrics: Metrics,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep `live` at the store's state for ever; started once the first snapshot is in."""
    _measure(live.view, metrics)
    backoff = Backoff()
    loaded = False
    while True:
        try:
            if not loaded:
                await _load(store, live)
                metrics.relists.inc()
                loaded = True
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
            async with store.watch(live.view.revision) as watch:
                _connected(status)
                while True:
                    for batch in await watch.receive():
                        live.apply(batch)
                    backoff.reset()
                    _connected(status)
        except Compacted:
            _log.warning("store compacted what was missed, listing again", revision=live.view.revision)
            loaded = False
            await trio.sleep(backoff.next())
        except Unavailable as error:
            delay = backoff.next()
            metrics.store_errors.labels("watch").inc()
            if status.report("store", False, str(error)):
                _log.warning("store lost", error=str(error), retry_in=round(delay, 2))
            await trio.sleep(delay)


def _connected(status: Status) -> None:
    if status.report("store", True):
        _log.info("store connected")


def _measure(view: View, metrics: Metrics) -> None:
    """The gauges look when they are asked: nothing to be done per change."""
    metrics.revision.set_function(lambda: view.revision)
    for kind in KINDS:
        metrics.objects.labels(kind).set_function(partial(view.count, kind))


async def _load(store: Store, live: Live) -> None:
    records: list[Record] = []
    head = await store.snapshot(records.extend)
    live.load(head, records)
    _log.info("view loaded", revision=head.revision, objects=len(records))
