"""Message body -> changes, or `Rejected`. Pure: no trio, no I/O, no clock; every input ends in one of the two.

State changes (tasks, container instances) become versioned objects; every other detail-type, known or not, becomes an
entry of the event log, kept whole. Source: AWS, "Amazon ECS events" and the EventBridge schema registry.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from css import arn, envelope
from css.envelope import JsonObject, is_object
from css.errors import Rejected
from css.model import MAX_VERSION, NO_CLUSTER, Change, Key, Kind, Put
from css.view import Fields

MAX_BODY = 1024 * 1024
"""What SQS allows; a recorded file might hold more."""

_SHELF_BODY = 64 * 1024
_SHELF_EXCERPT = 4 * 1024
_EVENT_ID = re.compile(r"[!-~]{1,256}")
# How deep JSON may be wrapped in the texts of JSON (a queue in a topic in an event) before it counts as unreadable.
_WRAPPINGS = 5
# What may hold a secret in a text that is no JSON: the member of an environment override, plain or with escaped quotes.
_VALUE_MEMBERS = (
    re.compile(r'(?P<before>"value"\s*:\s*")(?:[^"\\]|\\.)*', re.DOTALL),
    re.compile(r'(?P<before>(?<!\\)(\\+)"value\2"\s*:\s*\2")(?:(?!(?<!\\)\2").)*', re.DOTALL),
)

_STATE: dict[str, tuple[Kind, str, str]] = {
    envelope.TASK_CHANGE: ("task", "taskArn", "task"),
    envelope.INSTANCE_CHANGE: ("instance", "containerInstanceArn", "container-instance"),
}

_encode = msgspec.json.Encoder().encode


class Policy(msgspec.Struct, frozen=True):
    """What is taken in, and what is left out before it is stored."""

    redact_environment: bool = True
    account: str = ""
    """Only state of this account is taken; "" for any."""


def normalize(body: str | bytes, policy: Policy) -> tuple[Change, ...]:
    """The changes of one message (one, today). Raises `Rejected` for everything that cannot be read."""
    if len(body) > MAX_BODY:
        raise Rejected("too large", f"{len(body)} characters")
    try:
        message = msgspec.json.decode(body)
        return (_change(message, body, policy),)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # Hostile JSON raises more than msgspec's own errors: invalid UTF-8, lone surrogates, a thousand brackets.
        raise Rejected("not JSON", str(error)) from error


def event_time(change: Change) -> str:
    """The envelope's time (RFC 3339) of a change that `normalize` made; "" when it has none."""
    return envelope.read(change.body).time if isinstance(change, Put) else ""


def shelve(body: str | bytes, why: Rejected, *, source: str, time: str, policy: Policy) -> Put:
    """The quarantine entry of a rejected message: reason, digest, and as much of the body as can be kept safely.

    Entries are keyed by the body's SHA-256: the same poison delivered again is the same entry.
    """
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    digest = hashlib.sha256(raw).hexdigest()
    text, complete = _shelf_text(raw, policy)
    detail: JsonObject = {
        "reason": why.reason,
        "message": why.detail[:1000].encode("utf-8", "replace").decode(),
        "source": source,
        "sha256": digest,
        "size": len(raw),
        "body": text,
        "complete": complete,
    }
    stored = envelope.encode(detail, detail_type="css quarantine", source="css.quarantine", id=digest, time=time)
    return Put(Key("quarantine", NO_CLUSTER, digest), 0, stored)


def _change(message: Any, body: str | bytes, policy: Policy) -> Change:
    if not is_object(message):
        raise Rejected("no envelope", "a JSON object was expected")
    detail_type, detail = message.get("detail-type"), message.get("detail")
    if not isinstance(detail_type, str) or not detail_type:
        raise Rejected("no envelope", "no `detail-type`")
    if not is_object(detail):
        raise Rejected("no envelope", "no `detail` object")
    _check_envelope(message)
    if policy.redact_environment:
        envelope.redact(detail)
    if None in detail.values():  # absent and null are the same thing to AWS
        message["detail"] = detail = {name: value for name, value in detail.items() if value is not None}
    if detail_type in _STATE:
        return _state(message, detail, *_STATE[detail_type], policy)
    event_id = message.get("id") or ""
    if not _EVENT_ID.fullmatch(event_id):
        event_id = hashlib.sha256(body if isinstance(body, bytes) else body.encode()).hexdigest()
    return Put(Key("event", _cluster_of_event(message, detail), event_id), 0, _encode(message))


def _check_envelope(message: JsonObject) -> None:
    for name in ("id", "source", "account", "time", "region"):
        if not isinstance(message.get(name, ""), str):
            raise Rejected("no envelope", f"`{name}` is not a text")
    resources = message.get("resources", [])
    if not isinstance(resources, list) or not all(isinstance(resource, str) for resource in resources):
        raise Rejected("no envelope", "`resources` is not a list of texts")


def _state(message: JsonObject, detail: JsonObject, kind: Kind, arn_field: str, arn_type: str, policy: Policy) -> Put:
    if message.get("source") != envelope.EVENT_SOURCE:
        raise Rejected("foreign source", f"`source` is {str(message.get('source'))[:100]!r}, not 'aws.ecs'")
    cluster = arn.parse(detail.get("clusterArn"), type="cluster")
    this = arn.parse(detail.get(arn_field), type=arn_type)
    if this.cluster not in ("", cluster.id) or (this.account, this.region) != (cluster.account, cluster.region):
        raise Rejected("bad arn", f"{this.text!r} is not of the cluster {cluster.text!r}")
    if policy.account and cluster.account != policy.account:
        raise Rejected("foreign account", f"{cluster.account}, not {policy.account}")
    version = detail.get("version")
    if type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise Rejected("bad version", f"`detail.version` is {str(version)[:40]!r}")
    try:
        msgspec.convert(detail, Fields)
    except msgspec.ValidationError as error:
        raise Rejected("bad field", str(error)) from error
    return Put(Key(kind, cluster.id, this.text), version, _encode(message))


def _cluster_of_event(message: JsonObject, detail: JsonObject) -> str:
    """Deployment events name no cluster in `detail`: it is in the service's ARN, the first of `resources`."""
    for text in (detail.get("clusterArn"), *message.get("resources", [])):
        try:
            cluster = arn.parse(text).cluster
        except Rejected:
            continue
        if cluster:
            return cluster
    return NO_CLUSTER


def redacted(body: str | bytes, policy: Policy) -> str:
    """The message as text, without the values of environment overrides, wherever and however wrapped they stand."""
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    return _redacted_text(text, _WRAPPINGS) if policy.redact_environment else text


def _redacted_text(text: str, wrappings: int) -> str:
    """A text that may be JSON, perhaps with JSON in its texts; what cannot be read loses every `"value"`."""
    try:
        value = msgspec.json.decode(text)
        if wrappings and isinstance(value, dict | list | str):
            return _encode(_redacted_value(value, wrappings - 1)).decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    for pattern in _VALUE_MEMBERS:
        text = pattern.sub(rf"\g<before>{envelope.REDACTED}", text)
    return text


def _redacted_value(value: Any, wrappings: int) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_values(inner) if name == "environment" else _redacted_value(inner, wrappings)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_redacted_value(inner, wrappings) for inner in value]
    return _redacted_text(value, wrappings) if isinstance(value, str) and "value" in value else value


def _without_values(environment: Any) -> Any:
    if not isinstance(environment, list):
        return envelope.REDACTED  # of no shape that we know: nothing of it is kept
    return [
        {**variable, "value": envelope.REDACTED} if is_object(variable) and "value" in variable else variable
        for variable in environment
    ]


def _shelf_text(raw: bytes, policy: Policy) -> tuple[str, bool]:
    """What is kept of a rejected body, and whether that is all of it (so that it can be tried again)."""
    text = redacted(raw, policy)
    return (text, True) if len(text) <= _SHELF_BODY else (text[:_SHELF_EXCERPT], False)
