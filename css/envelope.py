"""The stored form of an object: an EventBridge envelope as compact JSON, as the Go service kept it in etcd.

Pure. Reads what any of our versions and the Go service wrote; writes one form. Redacts, before the store.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import msgspec

from css.errors import Rejected

TASK_CHANGE = "ECS Task State Change"
INSTANCE_CHANGE = "ECS Container Instance State Change"

REDACTED = "<redacted>"
"""What stands for the value of an environment override."""

EVENT_SOURCE = "aws.ecs"
RECONCILE_SOURCE = "css.reconcile"

JsonObject = dict[str, Any]


class Envelope(msgspec.Struct, frozen=True, rename={"detail_type": "detail-type"}):
    """`detail` is the ECS object or event, as JSON. Times are RFC 3339 UTC as they came."""

    detail: msgspec.Raw
    detail_type: str = ""
    id: str = ""
    source: str = ""
    account: str = ""
    time: str = ""
    region: str = ""
    resources: tuple[str, ...] = ()


class _Versioned(msgspec.Struct):
    version: int = 0


class _Stored(msgspec.Struct):
    detail: _Versioned


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)
_versioned = msgspec.json.Decoder(_Versioned)
_stored = msgspec.json.Decoder(_Stored)


def encode(
    detail: JsonObject,
    *,
    detail_type: str,
    source: str,
    id: str = "",  # noqa: A002 - the field's name in the envelope
    account: str = "",
    time: str = "",
    region: str = "",
    resources: tuple[str, ...] = (),
) -> bytes:
    """An envelope as compact JSON, of the same shape for events and for what the ECS API described."""
    return _encoder.encode(
        {
            "version": "0",
            "id": id,
            "detail-type": detail_type,
            "source": source,
            "account": account,
            "time": time,
            "region": region,
            "resources": resources,
            "detail": detail,
        }
    )


def read(body: bytes) -> Envelope:
    """Decode a stored value, also one that the Go service's reconciler wrote. Raises `Rejected("bad envelope")`."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_go_reconciled(body)


def version(detail: bytes | msgspec.Raw) -> int:
    """`detail.version`; 0 where there is none (events of the log, moto)."""
    try:
        return _versioned.decode(detail).version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0


def stored_version(body: bytes) -> int:
    """The version of a stored value, whoever wrote it; 0 where there is none."""
    try:
        return _stored.decode(body).detail.version
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        try:
            return version(read(body).detail)
        except Rejected:
            return 0


def redact(detail: JsonObject) -> None:
    """Replace, in place, the value of every environment override. Tolerates any shape."""
    overrides = detail.get("overrides")
    containers = overrides.get("containerOverrides") if is_object(overrides) else None
    for container in containers if isinstance(containers, list) else ():
        environment = container.get("environment") if is_object(container) else None
        for variable in environment if isinstance(environment, list) else ():
            if is_object(variable) and "value" in variable:
                variable["value"] = REDACTED


def is_object(value: object) -> TypeGuard[JsonObject]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def _read_go_reconciled(body: bytes) -> Envelope:
    """Its reconciler wrote `Detail` for `detail`, and Go's field names wherever a struct tag was malformed."""
    try:
        value = msgspec.json.decode(body)
        if is_object(value) and is_object(value.get("Detail")):
            return msgspec.convert(
                {**_go_names_mended(value), "detail": msgspec.Raw(_encoder.encode(_go_names_mended(value["Detail"])))},
                Envelope,
            )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("bad envelope", str(error)) from error
    raise Rejected("bad envelope", "no `detail` object")


def _go_names_mended(value: Any) -> Any:
    if is_object(value):
        return {name[:1].lower() + name[1:]: _go_names_mended(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_go_names_mended(inner) for inner in value]
    return value
