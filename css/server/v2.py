"""/v2: complete objects of every kind, simple filters, and how fresh it all is. Reads the view; waits for nothing.

Items are bytes that the view made once per change; a list joins them. Source: the interface's description, docs/api.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs, unquote

import msgspec

from css import query
from css.arn import short_id
from css.drift import DriftLedger, DriftReport
from css.follow import Live
from css.model import Kind
from css.query import InvalidFilter
from css.server.failure import failure
from css.server.http import Pieces, Request, Response
from css.status import Status, rfc3339
from css.view import Row

COLLECTIONS: dict[str, Kind] = {
    "clusters": "cluster",
    "services": "service",
    "tasks": "task",
    "instances": "instance",
    "events": "event",
    "quarantine": "quarantine",
}
"""What stands in the path for which kind."""

# About 300 kB: large enough to be sent as it is, in one system call, and small enough not to be held up by one.
_ROWS_PER_PIECE = 160
_BEHIND = b"]}\n"
_CANDIDATES = 5

_CODES = {
    **dict.fromkeys(query.PARAMETERS, "invalid_filter"),
    **dict.fromkeys(("kinds", "since", "snapshot", "interval", "heartbeat"), "invalid_parameter"),
}
"""What a parameter that is there, and wrong, is called; any other is unknown."""

_encode = msgspec.json.Encoder().encode


class EventLoss(msgspec.Struct, frozen=True):
    """What the passes after the first had to correct, of all that they saw; `rate` None before such a pass."""

    corrections: int
    seen: int
    rate: float | None


def list_all(live: Live, status: Status, kind: Kind, request: Request) -> Response:
    """`GET /v2/{kind}`: `{"revision", "asOf", "freshness", "items": [...]}`, in key order."""
    view = live.view
    try:
        rows = query.select(view, kind, query.parse(kind, parameters(request.query))) if request.query else None
    except InvalidFilter as error:
        return invalid(error)
    head = b'{"revision":%d,"asOf":%b,"freshness":%b,"items":[' % (
        view.revision,
        _encode(rfc3339(time.time())),
        _encode(status.freshness()),
    )
    return Response(200, _items(head, view.rows(kind) if rows is None else rows), headers=_headers(live, status))


def get_one(live: Live, status: Status, kind: Kind, request: Request, rest: str) -> Response:
    """`GET /v2/{kind}/{cluster}/{id}`: the item; `rest` is the path below `/v2/{kind}/`. ARNs may hold slashes."""
    if request.query:
        return failure(400, "invalid_parameter", "one object takes no parameters")
    cluster, name = _cluster_and_name(rest)
    found = query.find(live.view, kind, cluster, name)
    if not found:
        return failure(404, "not_found", f"no {kind} {name[:200]!r} in cluster {cluster[:200]!r}")
    if len(found) > 1:
        some = ", ".join(short_id(row.key.id) for row in found[:_CANDIDATES])
        return failure(400, "ambiguous_id", f"{name[:200]!r} is the beginning of {len(found)} ids: {some}")
    (row,) = found
    return Response(200, (row.head, row.detail, b"}"), headers=_headers(live, status))


def drift(ledger: DriftLedger, request: Request) -> Response:
    """`GET /v2/drift`: `{"eventLoss", "reports": [...]}`, the newest report first."""
    if request.query:
        return failure(400, "invalid_parameter", "this takes no parameters")
    return Response(200, _encode({"eventLoss": event_loss(ledger.reports), "reports": [*reversed(ledger.reports)]}))


def event_loss(reports: Sequence[DriftReport]) -> EventLoss:
    """The measured rate of lost events: the first pass into an empty store corrects nothing that events had said."""
    later = [report for report in reports if not report.bootstrap]
    corrections = sum(report.corrections for report in later)
    seen = sum(cluster.seen for report in later for cluster in report.clusters.values())
    return EventLoss(corrections, seen, round(corrections / seen, 6) if seen else None)


def parameters(text: str) -> dict[str, str]:
    """The query string, decoded. Raises `InvalidFilter` for a parameter given twice."""
    params = parse_qs(text, keep_blank_values=True)
    for name, values in params.items():
        if len(values) > 1:
            raise InvalidFilter(name[:200], "given more than once; `a,b` means any of them")
    return {name: values[0] for name, values in params.items()}


def invalid(error: InvalidFilter) -> Response:
    return failure(
        400,
        _CODES.get(error.parameter, "unknown_parameter"),
        error.message,
        parameter=error.parameter[:200],
        position=error.position,
    )


def _items(head: bytes, live_rows: Sequence[Row]) -> Pieces:
    """Holds references to the rows as they are now: a change replaces a row, it alters none."""
    rows = [*live_rows]

    def make() -> Iterator[bytes]:
        yield head
        for start in range(0, len(rows), _ROWS_PER_PIECE):
            # `Row.item` taken apart: each byte is copied once.
            parts: list[bytes] = []
            for row in rows[start : start + _ROWS_PER_PIECE]:
                parts += (b",", row.head, row.detail, b"}")
            yield b"".join(parts if start else parts[1:])
        yield _BEHIND

    items = sum([len(row.head) + len(row.detail) + 1 for row in rows])
    commas = max(0, len(rows) - 1)
    return Pieces(len(head) + items + commas + len(_BEHIND), make)


def _headers(live: Live, status: Status) -> tuple[tuple[str, str], ...]:
    revision = ("X-CSS-Revision", str(live.view.revision))
    lag = status.event_lag
    return (revision,) if lag is None else (revision, ("X-CSS-Event-Lag", f"{lag:.3f}"))


def _cluster_and_name(path: str) -> tuple[str, str]:
    """`{cluster}/{id}`, each a name or an ARN, percent-encoded or not."""
    cluster, _, name = path.partition("/")
    cluster = unquote(cluster)
    if cluster.startswith("arn:") and "/" not in cluster:
        rest, _, name = name.partition("/")
        cluster = f"{cluster}/{unquote(rest)}"
    return cluster, unquote(name)
