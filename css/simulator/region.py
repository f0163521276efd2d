"""A simulated region as a whole: the world lives, its events reach the queue, the endpoint answers.

The only part of the simulator that does I/O. It needs no AWS account and reaches none.
"""

from __future__ import annotations

import time
from functools import partial

import trio

from css.server.http import Limits
from css.server.listener import address, listen, serve
from css.simulator.endpoint import Endpoint
from css.simulator.inventory import StillWorld, World
from css.simulator.settings import Faults, Simulation
from css.simulator.world import LivingWorld

__all__ = ["Faults", "Simulation", "StillWorld", "simulate"]

_TICK = 0.05
"""Seconds between the world's steps: so late are events at most."""
_LIMITS = Limits(body=16 * 1024 * 1024)  # ten messages of 1 MiB in one batch, escaped


async def simulate(
    settings: Simulation,
    *,
    world: World | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a region until cancelled; `started` with the endpoint's URL. `world` instead of the settings' own.

    Raises `ConfigError` when the address cannot be had.
    """
    began = trio.current_time()
    epoch = time.time() - began
    lives = world or LivingWorld(settings, time.time())
    endpoint = Endpoint(lives, settings, epoch=epoch)
    if settings.preload:
        endpoint.carry(lives.history(settings.preload))
    listeners = await listen(settings.bind)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, endpoint.handle, listeners, limits=_LIMITS))
            nursery.start_soon(_live, lives, endpoint, began)
            task_status.started(address(listeners))
    finally:
        for listener in listeners:
            listener.socket.close()


async def _live(world: World, endpoint: Endpoint, then: float) -> None:
    """Let the world's time pass as ours does since `then`, when it was made, unless it is paused."""
    while True:
        await trio.sleep(_TICK)
        now = trio.current_time()
        if endpoint.paused:
            world.rest(now - then)
        else:
            endpoint.carry(world.step(now - then))
        then = now
