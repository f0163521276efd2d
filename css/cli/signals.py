"""A program that ends on SIGINT or SIGTERM. The daemon does not use it: it drains (css/service.py)."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio


async def until_signal(program: Callable[[], Awaitable[object]]) -> None:
    """Run `program` until it returns, or cancel it at the first signal; a second one ends the process at once."""
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            await program()
            nursery.cancel_scope.cancel()

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            nursery.start_soon(work)
            async for number in signals:
                signal.signal(number, signal.SIG_DFL)
                nursery.cancel_scope.cancel()
