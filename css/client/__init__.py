"""The client of `/v2/watch`: connects, decodes, resumes exactly, and says how it stands. Source: docs/api.md.

Never keeps the objects (`Known` keeps their keys), never hides that it is behind, never ends because a connection was
lost: only a refusal that no retry can mend ends a watch.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode

import trio

from css.backoff import Backoff
from css.client.conversation import HEARTBEAT_MS, Told, converse
from css.client.position import DEFAULT_PORT, Endpoint, Known, OtherData, Position, Refused, State, Update
from css.errors import Unavailable

__all__ = ["DEFAULT_PORT", "Endpoint", "Known", "State", "Update", "watch"]

# A connection that lasted less long does not count as a success: a crashing server is not asked every 250 ms.
_LASTED = 1.0


async def watch(
    url: str,
    *,
    deliver: Callable[[Update], None],
    kinds: Sequence[str] = ("tasks",),
    params: Mapping[str, str] | None = None,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> State:
    """Deliver the messages of a watch and every change of its state, in order, until it is refused; returns why.

    `kinds` and `params` (the field filters, `interval`, ...) are those of `/v2/watch`. `deliver` runs on trio's thread
    and must not block for long: while it does, the server is held up. A wrong `url` raises `ConfigError`.
    """
    endpoint = Endpoint.parse(url)
    asked = {**(params or {}), "kinds": ",".join(kinds), "heartbeat": str(HEARTBEAT_MS)}
    headers = [(b"Authorization", f"Bearer {token}".encode())] if token else []
    told, position, backoff, attempt = Told(deliver), Position(), Backoff(), 0
    while True:
        told.state(State("connecting", attempt=attempt))
        since = {} if position.revision is None else {"since": str(position.revision)}
        resource = f"{endpoint.path}/v2/watch?{urlencode(asked | since, safe=',*!:/')}"
        try:
            await converse(endpoint, resource, headers, ssl_context, position, told)
        except Refused as error:
            refused = State("refused", reason=str(error))
            told.state(refused)
            return refused
        except OtherData:
            continue
        except Unavailable as error:
            if told.lived_for() >= _LASTED:
                backoff.reset()
                attempt = 0
            attempt += 1
            delay = backoff.next()
            told.state(State("waiting", retry_in=round(delay, 2), attempt=attempt, reason=error.why))
            await trio.sleep(delay)
