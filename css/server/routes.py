"""The one route table. For every request the route is found by one look-up, access checked, the answer counted."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from css.drift import DriftLedger
from css.follow import Live
from css.metrics import Metrics
from css.server import stream, v1, v2
from css.server.failure import failure
from css.server.follower import Shared
from css.server.http import Answer, Handler, Request, Response, Send, Stream, WebSocket
from css.status import Status, rfc3339

_ALLOWED = (("Allow", "GET, HEAD"),)
_RETRY_AFTER = (("Retry-After", "2"),)
_PAGE_POLICY = (("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),)
_NO_ROUTE = "none"
_NOT_LOADED = failure(503, "not_loaded", "the store is not loaded yet; /readyz says why", headers=_RETRY_AFTER)

_encode = msgspec.json.Encoder().encode


class Guard(Protocol):
    """Who may ask; None: this one may."""

    def check(self, request: Request) -> Response | None: ...


class Context(msgspec.Struct, frozen=True):
    """What answers are made of."""

    live: Live
    status: Status
    metrics: Metrics
    drift: DriftLedger
    access: Guard
    version: str
    region: str = ""
    started: float = msgspec.field(default_factory=time.time)


Respond = Callable[[Request, str], Answer]
"""A request and what its path has below the route (percent-encoded, "" for a whole path)."""


class Route(msgspec.Struct, frozen=True):
    """`name` is the route's label in the metrics."""

    name: str
    respond: Respond


def routes(context: Context) -> Handler:
    """The handler of all requests."""
    whole, below = _table(context)
    check, requests = context.access.check, context.metrics.requests
    counted: dict[tuple[str, int], Callable[[], None]] = {}

    async def handle(request: Request) -> Answer:
        path = request.path
        route, rest = whole.get(path), ""
        if route is None:
            # Both `/v1/` and `/v2/` have four characters: a route with something below it ends at the next slash.
            end = path.find("/", 4) + 1
            route, rest = below.get(path[:end]), path[end:]
        answer = check(request) or _answer(route, request, rest)
        name = _NO_ROUTE if route is None else route.name
        key = (name, 101 if isinstance(answer, WebSocket) else answer.status)
        count = counted.get(key)
        if count is None:
            count = counted[key] = requests.labels(name, str(key[1])).inc
        count()
        return _followed(context.metrics, name, answer) if isinstance(answer, Stream) else answer

    return handle


def _answer(route: Route | None, request: Request, rest: str) -> Answer:
    is_v1 = request.path.startswith("/v1") and request.path[3:4] in ("", "/")
    if route is None:
        return v1.PAGE_NOT_FOUND if is_v1 else failure(404, "not_found", "no such path; `/` lists what there is")
    if request.method not in ("GET", "HEAD"):
        if is_v1:
            return v1.METHOD_NOT_ALLOWED
        return failure(405, "method_not_allowed", "everything here is read with GET", headers=_ALLOWED)
    return route.respond(request, rest)


def _followed(metrics: Metrics, name: str, answer: Stream) -> Stream:
    async def produce(send: Send) -> None:
        with metrics.followers.labels(name).track_inprogress():
            await answer.produce(send)

    return Stream(produce, answer.content_type, answer.status, answer.headers)


def _table(context: Context) -> tuple[dict[str, Route], dict[str, Route]]:
    """Routes by their whole path, and by the beginning of their paths."""
    live, status = context.live, context.status
    whole: dict[str, Respond] = {
        "/": lambda request, _: _page(context),
        "/healthz": lambda request, _: Response(200, b'{"status":"ok"}\n'),
        "/readyz": lambda request, _: _ready(context),
        "/version": lambda request, _: _version(context),
        "/metrics": lambda request, _: _metrics(context),
        "/v2/drift": lambda request, _: v2.drift(context.drift, request),
        "/v2/watch": _without_rest(partial(stream.watch, _following(context))),
    }
    about = {*whole} - {"/v2/watch"}
    below: dict[str, Respond] = {}
    for name, collection in (("tasks", v1.TASKS), ("instances", v1.INSTANCES)):
        whole[f"/v1/{name}"] = _without_rest(partial(v1.list_all, live, collection))
        below[f"/v1/{name}/"] = partial(v1.get_one, live, collection)
        whole[f"/v1/stream/{name}"] = _without_rest(partial(v1.stream, live, collection))
        whole[f"/v1/stream/{name}/"] = _without_rest(v1.without_slash)
    for name, kind in v2.COLLECTIONS.items():
        whole[f"/v2/{name}"] = _without_rest(partial(v2.list_all, live, status, kind))
        below[f"/v2/{name}/"] = partial(v2.get_one, live, status, kind)
    return (
        {path: Route(path, respond if path in about else _loaded(live, respond)) for path, respond in whole.items()},
        {path: Route(f"{path}{{cluster}}/{{id}}", _loaded(live, respond)) for path, respond in below.items()},
    )


def _following(context: Context) -> stream.Following:
    live, server = context.live, f"css/{context.version}"
    return stream.Following(live, Shared(live), context.status, context.metrics, server, context.region)


def _loaded(live: Live, respond: Respond) -> Respond:
    """Before the first snapshot is in nothing is known: saying that there is nothing would be believed."""
    return lambda request, rest: respond(request, rest) if live.loaded else _NOT_LOADED


def _without_rest(respond: Callable[[Request], Answer]) -> Respond:
    return lambda request, _: respond(request)


# --- About the service itself ------------------------------------------------------------------------------------


def _ready(context: Context) -> Response:
    missing = context.status.missing()
    body = _encode({"ready": not missing, "missing": missing, "revision": context.live.view.revision})
    return Response(503, body, headers=_RETRY_AFTER) if missing else Response(200, body)


def _version(context: Context) -> Response:
    view = context.live.view
    about = {
        "name": "css",
        "version": context.version,
        "region": context.region,
        "started": rfc3339(context.started),
        "epoch": view.epoch,
        "revision": view.revision,
    }
    return Response(200, _encode(about))


def _metrics(context: Context) -> Response:
    return Response(200, context.metrics.render(), "text/plain; version=0.0.4; charset=utf-8")


_LINKS = (
    *((f"/v2/{name}", "") for name in v2.COLLECTIONS),
    ("/v2/tasks?status=running&cluster=*", "filtered: a,b any of - * any text - ! in front: none of"),
    ("/v2/drift", "what each reconcile pass had to correct"),
    ("/v1/tasks", "as the Go service answered"),
    ("/v1/instances", ""),
    ("/v1/stream/tasks", "each change as a line"),
    ("/v1/stream/instances", ""),
    ("/healthz", ""),
    ("/readyz", ""),
    ("/version", ""),
    ("/metrics", ""),
)


def _page(context: Context) -> Response:
    view, missing = context.live.view, context.status.missing()
    state = "ready" if not missing else "not ready: " + "; ".join(f"{part}: {why}" for part, why in missing.items())
    counts = ", ".join(f"{view.count(kind)} {name}" for name, kind in v2.COLLECTIONS.items())
    links = "\n".join(
        f'<li><a href="{html.escape(url)}">{html.escape(url)}</a> {html.escape(why)}' for url, why in _LINKS
    )
    text = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>css</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46em; margin: 3em auto; padding: 0 1em }}</style>
<h1>Cluster state service</h1>
<p>Version {html.escape(context.version)} {html.escape(context.region)} - {html.escape(state)}
<p>Revision {view.revision}: {counts}
<ul>
{links}
</ul>
"""
    return Response(200, text.encode(), "text/html; charset=utf-8", _PAGE_POLICY)
