"""A simulated region as a whole: the world lives, its events reach the queue, the endpoint answers.

The only part of the simulator that does I/O. It needs no AWS account and reaches none.
"""

from __future__ import annotations

import time

import trio

from css.server.http import serve
from css.simulator.endpoint import Endpoint
from css.simulator.inventory import StillWorld, World
from css.simulator.settings import Faults, Simulation
from css.simulator.world import LivingWorld

__all__ = ["Faults", "Simulation", "StillWorld", "simulate"]

_TICK = 0.05
"""Seconds between the world's steps: so late are events at most."""


async def simulate(
    settings: Simulation,
    *,
    world: World | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a region until cancelled; `started` with the endpoint's URL. `world` instead of the settings' own."""
    epoch = time.time() - trio.current_time()
    lives = world or LivingWorld(settings, time.time())
    endpoint = Endpoint(lives, settings, epoch=epoch)
    if settings.preload:
        endpoint.carry(lives.history(settings.preload))
    async with trio.open_nursery() as nursery:
        host, _, port = settings.bind.rpartition(":")
        listeners = await trio.open_tcp_listeners(int(port), host=host)
        await nursery.start(serve, listeners, endpoint.handle)
        address = listeners[0].socket.getsockname()
        nursery.start_soon(_live, lives, endpoint)
        task_status.started(f"http://{host}:{address[1]}")


async def _live(world: World, endpoint: Endpoint) -> None:
    """Let the world's time pass as ours does, unless it is paused."""
    then = trio.current_time()
    while True:
        await trio.sleep(_TICK)
        now = trio.current_time()
        if not endpoint.paused:
            endpoint.carry(world.step(now - then))
        then = now
