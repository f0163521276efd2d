"""The AWS JSON protocols, as far as both simulated services need them: requests' fields, errors' shapes.

Pure. Source: the Smithy definitions of awsJson1_0 and awsJson1_1, and botocore's parsers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from css.server.http import Response

Fields = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class AwsError(Exception):
    """An error that is answered: `code` as the service names it; `legacy` the name of SQS's older protocol."""

    def __init__(self, code: str, message: str, status: int = 400, legacy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.legacy = legacy


def decode(body: bytes) -> Fields:
    """The members of a request. Raises `AwsError`."""
    try:
        fields = _decode(body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AwsError("SerializationException", str(error)) from error
    if not isinstance(fields, dict):
        raise AwsError("SerializationException", "an object was expected")
    return fields


def text(fields: Fields, name: str, default: str | None = None) -> str:
    """A string member; without `default` it must be there. Raises `AwsError`."""
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise AwsError("InvalidParameterException", f"{name} must be a string.")
    return value


def texts(fields: Fields, name: str) -> list[str]:
    """A list of strings, empty when absent. Raises `AwsError`."""
    value = fields.get(name) or []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise AwsError("InvalidParameterException", f"{name} must be a list of strings.")
    return value


def whole(fields: Fields, name: str, default: int, least: int, most: int) -> int:
    """A number within bounds. Raises `AwsError`."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or not least <= value <= most:
        raise AwsError("InvalidParameterException", f"{name} must be between {least} and {most}.")
    return value


def answer(body: bytes | Sequence[bytes], version: str) -> Response:
    return Response(200, body, f"application/x-amz-json-{version}")


def refuse(error: AwsError, version: str) -> Response:
    """An error's answer. SQS names it a second time, in a header, for those who knew the query protocol."""
    fault = "Sender" if error.status < 500 else "Receiver"
    headers = (("x-amzn-query-error", f"{error.legacy};{fault}"),) if error.legacy else ()
    body = _encode({"__type": error.code, "message": error.message})
    return Response(error.status, body, f"application/x-amz-json-{version}", headers)
