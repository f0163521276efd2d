"""Message bodies in, changes or `Rejected` out."""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from css import envelope
from css.errors import Rejected
from css.model import MAX_VERSION, NO_CLUSTER, Key, Put
from css.normalize import MAX_BODY, Policy, normalize, redacted, shelve

EVENTS = Path(__file__).parent / "data" / "events"
KEEP = Policy(redact_environment=False)
TASK: dict[str, Any] = json.loads((EVENTS / "task-ec2-2016.json").read_text())


def put_of(body: str | bytes, policy: Policy = KEEP) -> Put:
    (change,) = normalize(body, policy)
    assert isinstance(change, Put)
    return change


def changed(**detail: Any) -> str:
    message = copy.deepcopy(TASK)
    message["detail"] |= detail
    return json.dumps(message)


@pytest.mark.parametrize("path", sorted(EVENTS.glob("*.json")), ids=lambda path: path.stem)
def test_real_events_go_through_complete(path: Path) -> None:
    """Every real event of 2016-2024 becomes one change that keeps every field."""
    message = json.loads(path.read_text())
    put = put_of(path.read_bytes())
    assert json.loads(put.body) == message
    assert put.key.kind == {"task": "task", "cont": "instance"}.get(path.stem[:4], "event")
    if put.key.kind != "event":
        assert put.version == message["detail"]["version"]


def test_a_deployment_event_is_filed_under_its_services_cluster() -> None:
    """Deployment events name no cluster in `detail`: it is read from the service's ARN."""
    put = put_of((EVENTS / "deployment-failed-2020.json").read_bytes())
    assert put.key == Key("event", "default", "ddca6449-b258-46c0-8653-e0e3aEXAMPL2")


def test_an_unknown_detail_type_is_kept() -> None:
    """What AWS may invent tomorrow is an entry of the event log, identified by its content when it has no id."""
    put = put_of('{"detail-type": "ECS Something New", "detail": {"a": [1, null]}}')
    assert put.key.kind == "event"
    assert put.key.cluster == NO_CLUSTER
    assert json.loads(put.body)["detail"] == {"a": [1, None]}
    assert put_of('{"detail-type": "ECS Something New", "detail": {"a": [1, null]}}').key == put.key


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("not json", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ("\ud800", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ("", "not JSON"),
        ("[1, 2]", "no envelope"),
        ("{}", "no envelope"),
        ('{"detail-type": "ECS Task State Change"}', "no envelope"),
        ('{"detail-type": "ECS Task State Change", "detail": []}', "no envelope"),
        ('{"detail-type": 5, "detail": {}}', "no envelope"),
        ('{"detail-type": "x", "detail": {}, "time": 5}', "no envelope"),
        ('{"detail-type": "x", "detail": {}, "resources": [5]}', "no envelope"),
        ("x" * (MAX_BODY + 1), "too large"),
        (changed(taskArn=None), "bad arn"),
        (changed(taskArn="nonsense"), "bad arn"),
        (changed(taskArn=7), "bad arn"),
        (changed(clusterArn="arn:aws:ecs:us-east-1:1:cluster/x"), "bad arn"),
        (changed(clusterArn="arn:aws:ecs:us-east-1:111122223333:cluster/"), "bad arn"),
        (changed(clusterArn="arn:aws:ecs:eu-west-1:111122223333:cluster/default"), "bad arn"),
        (changed(taskArn="arn:aws:ecs:us-east-1:111122223333:task/other/0123"), "bad arn"),
        (changed(version="seven"), "bad version"),
        (changed(version=None), "bad version"),
        (changed(version=True), "bad version"),
        (changed(version=4.5), "bad version"),
        (changed(version=-1), "bad version"),
        (changed(version=MAX_VERSION + 1), "bad version"),
        (changed(version=10**30), "bad version"),
        (changed(lastStatus=["RUNNING"]), "bad field"),
        (json.dumps({**TASK, "source": "com.example.forged"}), "foreign source"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else None,
)
def test_what_cannot_be_read_is_rejected_with_its_reason(body: str | bytes, reason: str) -> None:
    """Malformed, hostile, forged or huge messages are `Rejected`, each with a short constant reason."""
    with pytest.raises(Rejected) as caught:
        normalize(body, KEEP)
    assert caught.value.reason == reason


def test_events_of_another_account_are_rejected_when_one_is_configured() -> None:
    """A configured account keeps foreign state out."""
    assert put_of(json.dumps(TASK), Policy(account="111122223333")).version == 4
    with pytest.raises(Rejected, match="foreign account"):
        normalize(json.dumps(TASK), Policy(account="999999999999"))


OVERRIDES = {"containerOverrides": [{"name": "web", "environment": [{"name": "TOKEN", "value": "canary-s3cret"}]}]}


def test_environment_values_are_redacted_before_the_store() -> None:
    """Names of environment overrides are kept, values are not, unless asked for."""
    redacted = put_of(changed(overrides=OVERRIDES), Policy()).body
    assert b"canary-s3cret" not in redacted
    assert b"TOKEN" in redacted
    assert b"canary-s3cret" in put_of(changed(overrides=OVERRIDES), KEEP).body


@pytest.mark.parametrize(
    "body",
    [
        changed(overrides=OVERRIDES, version="poison"),
        changed(overrides=OVERRIDES)[:-3],
        json.dumps(TASK["detail"] | {"overrides": OVERRIDES}),
    ],
    ids=["readable", "cut off", "bare detail"],
)
def test_the_shelf_holds_no_environment_value(body: str) -> None:
    """A rejected message is shelved with reason, digest and size; environment values are redacted there too."""
    with pytest.raises(Rejected) as caught:
        normalize(body, Policy())
    entry = shelve(body, caught.value, source="q", time="2026-01-01T00:00:00Z", policy=Policy())
    assert b"canary-s3cret" not in entry.body
    detail = json.loads(entry.body)["detail"]
    assert (detail["reason"], detail["size"]) == (caught.value.reason, len(body))
    assert shelve(body, caught.value, source="q", time="later", policy=Policy()).key == entry.key


EVENT: dict[str, Any] = json.loads(changed(overrides=OVERRIDES))
WRAPPED = {
    "a list": json.dumps([EVENT]),
    "a member": json.dumps({"event": EVENT}),
    "records": json.dumps({"Records": [{"body": json.dumps(EVENT)}]}),
    "detail as text": json.dumps({**EVENT, "detail": json.dumps(EVENT["detail"])}),
    "a notification without type": json.dumps({"Message": json.dumps(EVENT)}),
    "encoded twice": json.dumps(json.dumps(EVENT)),
    "encoded five times": json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(EVENT))))),
    "encoded nine times": functools.reduce(lambda value, _: json.dumps(value), range(8), json.dumps(EVENT)),
    "cut off": json.dumps(EVENT)[:-3],
    "encoded and cut off": json.dumps(json.dumps(EVENT))[:-3],
    "encoded twice and cut off": json.dumps(json.dumps(json.dumps(EVENT)))[:-5],
    "encoded eight times and cut off": functools.reduce(
        lambda value, _: json.dumps(value), range(7), json.dumps(EVENT)
    )[:-20],
    "an environment that is no list": json.dumps({"environment": {"TOKEN": "canary-s3cret"}}),
}


@pytest.mark.parametrize("shape", WRAPPED)
def test_no_wrapping_hides_an_environment_value(shape: str) -> None:
    """However an event is wrapped, cut or encoded again, its environment values are on no shelf and in no recording."""
    entry = shelve(WRAPPED[shape], Rejected("no envelope"), source="q", time="", policy=Policy())
    assert b"canary-s3cret" not in entry.body
    assert "canary-s3cret" not in redacted(WRAPPED[shape], Policy())
    assert "canary-s3cret" in redacted(WRAPPED[shape], KEEP)


WRAPPINGS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [1, value],
    "member": lambda value: {"event": value, "x": None},
    "text": json.dumps,
    "records": lambda value: {"Records": [{"body": json.dumps(value)}]},
    "notification": lambda value: {"Type": "Notification", "Message": json.dumps(value, indent=1)},
    "event": lambda value: {**EVENT, "detail": json.dumps({"inner": value})},
}


@given(st.lists(st.sampled_from(sorted(WRAPPINGS)), max_size=4), st.text(max_size=4), st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_any_wrappings_lose_the_value_and_keep_the_name(wrappings: list[str], noise: str, cut: int) -> None:
    """Wrapped in whatever way, whole or cut off, the value never survives; whole, the variable's name does."""
    variable = {"name": "TOKEN-name", "value": f"{noise}canary-s3cret{noise}"}
    event = TASK["detail"] | {"overrides": {"containerOverrides": [{"environment": [variable, variable]}]}}
    body = json.dumps(functools.reduce(lambda value, name: WRAPPINGS[name](value), wrappings, event))
    whole = redacted(body, Policy())
    assert "canary-s3cret" not in whole
    assert "TOKEN-name" in whole
    assert "canary-s3cret" not in redacted(body[: len(body) - cut], Policy())


def test_quotes_in_a_value_hide_nothing_of_it() -> None:
    """A value with quotes and backslashes is replaced to its end."""
    event = json.loads(json.dumps(EVENT).replace("canary-s3cret", 'a\\"canary-s3cret\\\\\\"b'))
    for text in (json.dumps(event)[:-3], json.dumps(json.dumps(event))[:-3], json.dumps([json.dumps(event)])):
        assert "canary-s3cret" not in redacted(text, Policy())


@pytest.mark.parametrize(
    "piece",
    ['"value":"', '\\"value\\":\\"', '\\\\"value', '"value" : ', "\\" * 50, '"value":"\\', "\\" * 99 + '"value'],
)
def test_hostile_text_takes_no_time(piece: str) -> None:
    """A megabyte of what the patterns look for is redacted in a moment."""
    text = (piece * (MAX_BODY // len(piece)))[:MAX_BODY]
    begun = time.perf_counter()
    redacted(text, Policy())
    assert time.perf_counter() - begun < 5


def test_a_shelved_message_is_bounded() -> None:
    """However large the poison, its entry stays small."""
    body = "x" * (MAX_BODY + 1)
    entry = shelve(body, Rejected("too large"), source="q", time="", policy=Policy())
    assert len(entry.body) < 8192


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*TASK["detail"], "environment", "overrides", "attachments"])


@given(st.binary(max_size=200) | st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_a_change_or_a_rejection(body: bytes | str) -> None:
    """No input whatever raises anything but `Rejected`, and every rejection can be shelved."""
    try:
        normalize(body, Policy())
    except Rejected as rejected:
        envelope.read(shelve(body, rejected, source="q", time="", policy=Policy()).body)


@given(st.dictionaries(FIELDS, JSON, max_size=4), st.dictionaries(st.sampled_from([*TASK, "x"]), JSON, max_size=2))
@settings(max_examples=300, deadline=None)
def test_any_field_may_be_wrong(detail: dict[str, Any], outer: dict[str, Any]) -> None:
    """A task event with arbitrary values in arbitrary fields is taken in, readable by the view, or rejected."""
    message = copy.deepcopy(TASK)
    message["detail"] |= detail
    body = json.dumps({**message, **outer})
    try:
        put = put_of(body, Policy())
    except Rejected as rejected:
        envelope.read(shelve(body, rejected, source="q", time="", policy=Policy()).body)
        return
    assert msgspec.json.decode(bytes(envelope.read(put.body).detail))
