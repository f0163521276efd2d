"""/v1: the Go service's interface, kept exactly. Reads the view; waits for nothing but a stream's next change.

Entities are made once per change (some 3 us) and kept in `Row.v1`; a list joins them. Source: the Go service's recorded
answers and its description (tests/data/conformance). Mended: every ARN format and partition, every cluster name ECS
accepts, streams that begin at once and never end by themselves, 405 for other methods.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Iterator, Sequence
from urllib.parse import parse_qs, unquote

import msgspec
import trio

from css import arn, query
from css.errors import Compacted, Rejected
from css.follow import Live
from css.model import Key, Kind
from css.query import Filter
from css.server.http import Answer, Pieces, Request, Response, Send, Stream
from css.server.v1_entity import entity
from css.view import Row, Step

JSON = "application/json; charset=UTF-8"
TEXT = "text/plain; charset=utf-8"
LINES = "application/octet-stream"

# About 300 kB: large enough to be sent as it is, in one system call, and small enough not to be held up by one.
_ROWS_PER_PIECE = 320
_BEFORE, _BEHIND = b'{"items":[', b"]}\n"


class Collection(msgspec.Struct, frozen=True):
    """What differs between tasks and container instances."""

    kind: Kind
    arn_type: str
    filters: frozenset[str]
    statuses: frozenset[str]
    missing: Response


TASKS = Collection(
    kind="task",
    arn_type="task",
    filters=frozenset({"status", "cluster", "startedBy"}),
    statuses=frozenset({"PENDING", "RUNNING", "STOPPED"}),
    missing=Response(404, b"Task not found\n", TEXT),
)
INSTANCES = Collection(
    kind="instance",
    arn_type="container-instance",
    filters=frozenset({"status", "cluster"}),
    statuses=frozenset({"ACTIVE", "INACTIVE"}),
    missing=Response(404, b"Instance not found\n", TEXT),
)

PAGE_NOT_FOUND = Response(404, b"404 page not found\n", TEXT)
METHOD_NOT_ALLOWED = Response(405, b"405 method not allowed\n", TEXT, (("Allow", "GET, HEAD"),))


class BadRequest(ValueError):
    """What a 400 says; a closed list of texts, as the Go service had them."""


def list_all(live: Live, collection: Collection, request: Request) -> Response:
    """`GET /v1/tasks`: every object that passes the filters, in key order."""
    try:
        asked = _filter(collection, request.query) if request.query else None
    except BadRequest as error:
        return _bad_request(error)
    view, kind = live.view, collection.kind
    return Response(200, _items(view.rows(kind) if asked is None else query.select(view, kind, asked)), JSON)


def get_one(live: Live, collection: Collection, request: Request, rest: str) -> Response:
    """`GET /v1/tasks/{cluster}/{arn}`; `rest` is the path below `/v1/tasks/`. An ARN may hold slashes."""
    if not rest:
        return without_slash(request)
    key = _key(collection, rest)
    row = None if key is None else live.view.row(key)
    if row is not None:
        return Response(200, (row.v1 or entity(row), b"\n"), JSON)
    if rest.endswith("/") and _key(collection, rest[:-1]) is not None:
        return without_slash(request)
    return PAGE_NOT_FOUND if key is None else collection.missing


def stream(live: Live, collection: Collection, request: Request) -> Answer:
    """`GET /v1/stream/tasks`: each new state as a line, from `entityVersion` on (inclusive), or from now on."""
    try:
        version = _entity_version(live, request.query)
    except BadRequest as error:
        return _bad_request(error)
    return Stream(_follow(live, collection.kind, version), LINES)


def _bad_request(error: BadRequest) -> Response:
    return Response(400, f"{error}\n".encode(), TEXT)


def without_slash(request: Request) -> Response:
    """Where the Go service sent those who wrote a slash too many."""
    location = request.path[:-1] + ("?" + request.query if request.query else "")
    body = f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n'
    return Response(301, body.encode(), "text/html; charset=utf-8", (("Location", location),))


# --- Lists -------------------------------------------------------------------------------------------------------


def _filter(collection: Collection, text: str) -> Filter:
    params = parse_qs(text, keep_blank_values=True)
    if not params.keys() <= collection.filters:
        raise BadRequest("At least one of the filters provided is unsupported")
    if any(len(values) > 1 for values in params.values()):
        raise BadRequest("At least one of the filters provided is specified multiple times")
    asked = {name: values[0] for name, values in params.items() if values[0]}
    if "status" in asked:
        asked["status"] = asked["status"].upper()
        if asked["status"] not in collection.statuses:
            raise BadRequest("Invalid status")
    if "cluster" in asked:
        try:
            # The name alone, whatever the region in the ARN: so it was, and so the answers were recorded.
            asked["cluster"] = arn.cluster_name(asked["cluster"])
        except Rejected as error:
            raise BadRequest("Invalid cluster ARN or name") from error
    return query.equal(asked)


def _items(rows: Sequence[Row]) -> Pieces:
    """Holds references to what the rows have, which is what they had when it was asked for."""
    entities = [row.v1 or entity(row) for row in rows]

    def make() -> Iterator[bytes]:
        yield _BEFORE
        for start in range(0, len(entities), _ROWS_PER_PIECE):
            some = entities[start : start + _ROWS_PER_PIECE]
            yield b",".join([b"", *some] if start else some)
        yield _BEHIND

    commas = max(0, len(entities) - 1)
    return Pieces(len(_BEFORE) + sum(map(len, entities)) + commas + len(_BEHIND), make)


def _key(collection: Collection, path: str) -> Key | None:
    """The key that `{cluster}/{arn}` names; None when there can be none."""
    cluster, _, name = (unquote(path) if "%" in path else path).partition("/")
    if not arn.is_cluster_name(cluster):
        return None
    try:
        return Key(collection.kind, cluster, arn.parse(name, type=collection.arn_type).text)
    except Rejected:
        return None


# --- Streams -----------------------------------------------------------------------------------------------------


def _entity_version(live: Live, text: str) -> int:
    """Where to start; 0: from now on."""
    wanted = parse_qs(text).get("entityVersion", [""])[0]
    if not wanted:
        return 0
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 20 and int(wanted) < 2**63):
        raise BadRequest("Invalid entity version")
    version = int(wanted)
    if version and not live.log.floor <= version <= live.log.head:
        raise BadRequest("Entity version is out of range")
    return version


def _follow(live: Live, kind: Kind, version: int) -> Callable[[Send], Awaitable[None]]:
    cursor, first = live.log.head, list[Row]()
    if version and version == live.log.floor:
        # What the floor's revision itself changed is in the log no more, but it is the view's newest of those objects.
        cursor, first = version, [row for row in live.view.rows(kind) if row.revision == version]
    elif version:
        cursor = version - 1

    async def produce(send: Send) -> None:
        await _send_lines(first, send)
        first.clear()
        after = cursor
        while True:
            moved = live.moved
            try:
                steps = live.log.read(after)
            except Compacted as error:
                # There is no word for it in this format. Cut off rather than finished, the body says so itself.
                raise trio.BrokenResourceError("follower fell behind what is held") from error
            if steps:
                after = steps[-1].revision
                await _send_lines(_changed(kind, steps), send)
            else:
                await moved.wait()

    return produce


def _changed(kind: Kind, steps: Sequence[Step]) -> list[Row]:
    return [
        change.after
        for step in steps
        for change in step.changes
        if change.after is not None and change.key.kind == kind
    ]


async def _send_lines(rows: Sequence[Row], send: Send) -> None:
    for start in range(0, len(rows), _ROWS_PER_PIECE):
        lines = [entity(row) for row in rows[start : start + _ROWS_PER_PIECE]]
        await send(b"\n".join([*lines, b""]))
