"""The transports of what a follower tells: today the websocket /v2/watch, JSON texts. Holds nothing of its own."""

from __future__ import annotations

import msgspec
import trio
from trio_websocket import WebSocketConnection

from css.follow import Live
from css.metrics import Metrics
from css.query import InvalidFilter
from css.server import v2
from css.server.failure import failure
from css.server.follower import Follower, Shared, parse
from css.server.http import Answer, Request, WebSocket
from css.status import Status

_FOLLOWED = {name: kind for name, kind in v2.COLLECTIONS.items() if kind != "quarantine"}

_SEND_TIME = 10.0
"""Seconds that a client may take nothing: then it is gone; half a message sent makes the socket useless anyway."""


class Following(msgspec.Struct, frozen=True):
    """What every follower needs."""

    live: Live
    shared: Shared
    status: Status
    metrics: Metrics
    server: str
    region: str


def watch(following: Following, request: Request) -> Answer:
    """`GET /v2/watch`."""
    if request.headers.get("upgrade", "").lower() != "websocket":
        return failure(426, "upgrade_required", "this is a websocket", headers=(("Upgrade", "websocket"),))
    try:
        ask = parse(v2.parameters(request.query), _FOLLOWED)
    except InvalidFilter as error:
        return v2.invalid(error)

    async def converse(socket: WebSocketConnection) -> None:
        async def send(message: bytes) -> None:
            with trio.fail_after(_SEND_TIME):
                await socket.send_message(message.decode())

        with following.metrics.followers.labels("watch").track_inprogress():
            follower = Follower(
                following.live,
                following.shared,
                following.status,
                following.metrics,
                ask,
                following.server,
                following.region,
            )
            await follower.run(send)

    return WebSocket(converse)
