"""One log line every half minute: how deep the queue is and how fast all flows. Reads the metrics, moves none."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
import trio
from prometheus_client import Counter

from css.metrics import Metrics
from css.status import Status

INTERVAL = 30.0

_log = structlog.get_logger()


async def report_rates(status: Status, metrics: Metrics, interval: float = INTERVAL) -> None:
    """For ever."""
    before = totals(metrics)
    while True:
        await trio.sleep(interval)
        now = totals(metrics)
        rates = {name: round((now[name] - before[name]) / interval, 1) for name in now}
        before = now
        lag = status.event_lag
        _log.info(
            "rates per second",
            **rates,
            queue_depth=status.queue_depth,
            event_lag=None if lag is None else round(lag, 2),
            ready=status.ready,
        )


def totals(metrics: Metrics) -> Mapping[str, float]:
    """The counters of the line, summed over their labels."""
    return {
        "received": _total(metrics.received),
        "acknowledged": _total(metrics.acknowledged),
        "applied": _total(metrics.changes, outcome="applied"),
        "late": _total(metrics.changes, outcome="late"),
        "shelved": _total(metrics.rejected),
        "requests": _total(metrics.requests),
    }


def _total(counter: Counter, **labels: str) -> float:
    return sum(
        sample.value
        for family in counter.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
    )
