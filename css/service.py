"""THE MAP: every channel and every actor of the daemon, how it becomes ready and how it stops.

```
source.receive --Message--> intake --Delivery--> write --> store --> follow --> live --> serve
                     reconcile ------Delivery---^              (view, log)
source.acknowledge <--settled-- write
```
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from css import __version__
from css.config import Config
from css.config import Store as StoreSettings
from css.drift import DriftLedger
from css.ecs import EcsApi
from css.follow import Live, follow
from css.intake import intake
from css.metrics import Metrics
from css.model import Delivery, Message
from css.normalize import Policy
from css.rates import report_rates
from css.reconcile import reconcile
from css.server.auth import Access, refuse_open
from css.server.http import Limits
from css.server.listener import address, listen, serve
from css.server.routes import Context, routes
from css.source import open_source
from css.status import Status
from css.store import Retention, Store
from css.store.embedded import open_embedded
from css.writer import Writer, write

_DAY = 86400.0
_log = structlog.get_logger()


async def run(config: Config, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the daemon until SIGTERM or SIGINT; started with its URL once it answers HTTP.

    Raises `ConfigError` for what no retry can mend: a wrong setting, an address or a store file in use.
    """
    refuse_open(config)
    wanted = {"store": True, "queue": bool(config.source.queue), "reconcile": config.reconcile.enabled}
    status = Status(required=[part for part, is_wanted in wanted.items() if is_wanted])
    metrics, ledger, live = Metrics(), DriftLedger(), Live()
    policy = Policy(config.redact_environment, config.source.account)
    source = open_source(config, status, metrics) if wanted["queue"] else None
    api = EcsApi(config.aws, config.reconcile, policy, metrics) if wanted["reconcile"] else None
    region = api.region if api else config.aws.region
    handler = routes(Context(live, status, metrics, ledger, Access.of(config), __version__, region))
    listeners = await listen(config.server.bind)

    async with open_store(config.store) as store, trio.open_nursery() as nursery:
        stop, drain = trio.Event(), trio.Event()
        # A list of at most ten messages passes from hand to hand: what waits is counted by the source alone.
        message_in, message_out = trio.open_memory_channel[Sequence[Message]](0)
        # Up to 16 lists, of ten messages or a hundred reconciled objects each: they gather while a batch commits.
        delivery_in, delivery_out = trio.open_memory_channel[Sequence[Delivery]](16)
        writer = Writer(store, live, config.writer, policy, status, metrics)

        limits = Limits(connections=config.server.max_connections)
        serving = partial(serve, handler, listeners, limits=limits, metrics=metrics, drain=drain)
        served = _start(nursery, serving)
        written = _start(nursery, write, delivery_out, writer, config.writer)
        acknowledged = _start(nursery, source.acknowledge) if source else trio.Event()
        nursery.start_soon(_stop_on_signal, stop)
        nursery.start_soon(report_rates, status, metrics)
        _log.info("serving", url=address(listeners), version=__version__, store=repr(store))
        task_status.started(address(listeners))

        async with delivery_in, message_in:
            with trio.CancelScope() as inlets:  # stopping begins here: with what reads, and what lists
                nursery.start_soon(_when, stop, inlets.cancel)
                await nursery.start(follow, store, live, status, metrics)
                nursery.start_soon(intake, message_out, delivery_in.clone(), policy, status, metrics)
                async with trio.open_nursery() as readers:
                    if source:
                        readers.start_soon(source.receive, message_in.clone())
                    if api:
                        to_writer = delivery_in.clone()
                        readers.start_soon(reconcile, api, live, to_writer, config.reconcile, status, metrics, ledger)
                    await stop.wait()

        with trio.move_on_after(config.server.drain) as draining:
            _log.info("stopping", drain_seconds_at_most=config.server.drain)
            drain.set()
            await written.wait()
            if source:
                source.finish()
                await acknowledged.wait()
            await served.wait()
        if draining.cancelled_caught:
            _log.warning("stopped before everything was drained: the queue will deliver the rest again")
        nursery.cancel_scope.cancel()


def open_store(settings: StoreSettings) -> AbstractAsyncContextManager[Store]:
    """The store that the settings name: etcd when it has endpoints, else the embedded file."""
    days = (settings.tombstone_days, settings.event_days, settings.quarantine_days)
    retention = Retention(*(each * _DAY for each in days))
    if settings.etcd_endpoints:
        from css.store.etcd import open_etcd  # gRPC is large: who does not use it need not load it

        return open_etcd(settings, retention)
    return open_embedded(Path(settings.path), retention)


def _start(nursery: trio.Nursery, actor: Callable[..., Awaitable[None]], *args: Any) -> trio.Event:
    """Start an actor that ends by itself once its inlet is closed; the event is set then."""
    done = trio.Event()

    async def run_to_its_end() -> None:
        await actor(*args)
        done.set()

    nursery.start_soon(run_to_its_end)
    return done


async def _when(event: trio.Event, then: Callable[[], None]) -> None:
    await event.wait()
    then()


async def _stop_on_signal(stop: trio.Event) -> None:
    """The first signal drains; a second one finds the system's own handler and ends the process at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _log.info("signal received", signal=signal.Signals(number).name)
            stop.set()
            break
    signal.signal(signal.SIGINT, signal.SIG_DFL)
