"""The shape of an error outside /v1: `{"error": {"code", "message", "parameter", "position"}}`; never a traceback."""

from __future__ import annotations

import msgspec

from css.server.http import Response


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """`code` is for programs and does not change, `message` for people; `parameter` and `position` say where."""

    code: str
    message: str
    parameter: str | None = None
    position: int | None = None


def failure(
    status: int,
    code: str,
    message: str,
    *,
    parameter: str | None = None,
    position: int | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """An answer that says what was wrong."""
    body = msgspec.json.encode({"error": Failure(code, message, parameter, position)})
    return Response(status, body, headers=headers)
