"""The normalizer's actor: messages in, deliveries out. Decides nothing itself (`normalize` does) and never drops one.

What cannot be read becomes a quarantine entry on the same road: durable before its message is acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

import structlog
import trio

from css.errors import Rejected
from css.metrics import Metrics
from css.model import Change, Delivery, Message
from css.normalize import Policy, event_time, normalize, shelve
from css.status import Status, rfc3339

_log = structlog.get_logger()


async def intake(
    messages: trio.MemoryReceiveChannel[Sequence[Message]],
    deliveries: trio.MemorySendChannel[Sequence[Delivery]],
    policy: Policy,
    status: Status,
    metrics: Metrics,
) -> None:
    """Normalize until the source's end is closed, then close the writer's."""
    async with messages, deliveries:
        async for batch in messages:
            now = time.time()
            await deliveries.send([_deliver(message, now, policy, status, metrics) for message in batch])


def _deliver(message: Message, now: float, policy: Policy, status: Status, metrics: Metrics) -> Delivery:
    try:
        changes = normalize(message.body, policy)
    except Rejected as rejected:
        metrics.rejected.labels(rejected.reason).inc()
        entry = shelve(message.body, rejected, source=message.source, time=rfc3339(now) or "", policy=policy)
        _log.warning("message shelved", reason=rejected.reason, sha256=entry.key.id[:12], source=message.source)
        return Delivery((entry,), message.settled)
    _note_lag(changes[0], now, status, metrics)
    return Delivery(changes, message.settled)


def _note_lag(change: Change, now: float, status: Status, metrics: Metrics) -> None:
    try:
        happened = datetime.fromisoformat(event_time(change)).timestamp()
    except (ValueError, OverflowError):
        return  # an unreadable time makes an event no worse; only its lag stays unknown
    status.event(happened, now)
    metrics.event_lag.set(status.event_lag or 0.0)
