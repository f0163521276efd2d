"""/v2: lists with their freshness, one object, the drift ledger, the shelf, and the shape of errors."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from css.drift import ClusterDrift, DriftReport
from css.errors import Rejected
from css.model import Key, Put
from css.normalize import Policy, shelve
from css.server.http import Response
from tests.conformance import DATA
from tests.served import ACCOUNT, Served, event, header, whole


async def _error(served: Served, target: str, status: int) -> dict[str, Any]:
    answer = await served.ask(target)
    assert answer.status == status
    assert answer.content_type == "application/json"
    error: dict[str, Any] = json.loads(whole(answer))["error"]
    return error


@pytest.mark.parametrize("path", sorted((DATA / "events").glob("*.json")), ids=lambda path: path.stem)
async def test_every_real_event_is_served_complete(path: Any) -> None:
    """Whatever ECS sent is listed under its kind and found one by one, with every field it had."""
    served = Served()
    served.tell(path.read_bytes())
    detail = json.loads(path.read_text())["detail"]
    kind = "tasks" if "taskDefinitionArn" in detail else "instances" if "versionInfo" in detail else "events"
    (item,) = (await served.json(f"/v2/{kind}"))["items"]
    assert item["detail"] == detail
    assert (item["revision"], item["source"], item["key"]["kind"]) == (1, "event", kind[:-1])
    assert item["updatedAt"] == json.loads(path.read_text())["time"]
    assert await served.json(f"/v2/{kind}/{item['key']['cluster']}/{item['key']['id']}") == item


async def test_a_list_says_which_state_it_is_and_how_fresh() -> None:
    """Revision, time and freshness in the body; revision and event lag as headers."""
    served = Served()
    served.status.event(1000.0, 1000.25)
    served.status.report("store", True)
    served.tell_task(1)
    served.tell_task(2, cluster="other")
    answer = await served.ask("/v2/tasks")
    body = json.loads(whole(answer))
    assert body["revision"] == 2
    assert body["freshness"]["eventLagSeconds"] == 0.25
    assert body["freshness"]["storeConnected"] is True
    assert body["asOf"].endswith("Z")
    assert [item["key"]["cluster"] for item in body["items"]] == ["default", "other"]
    assert (header(answer, "X-CSS-Revision"), header(answer, "X-CSS-Event-Lag")) == ("2", "0.250")
    assert answer.content_type == "application/json"


async def test_an_empty_service_serves_empty_lists() -> None:
    """Before anything is known every list is there, empty, and without a lag that nobody has measured."""
    served = Served()
    for name in ("tasks", "instances", "services", "clusters", "events", "quarantine"):
        answer = await served.ask(f"/v2/{name}")
        assert json.loads(whole(answer))["items"] == []
        assert header(answer, "X-CSS-Event-Lag") is None


async def test_filters_select() -> None:
    """Parameters are decoded and all of them must hold."""
    served = Served()
    for number in range(100):
        served.tell_task(number, cluster="a" if number % 2 else "b", group=f"service:web {number % 5}")
    items = (await served.json("/v2/tasks?cluster=a&service=web+1,web%203&status=running"))["items"]
    assert len(items) == 20
    assert {item["detail"]["group"] for item in items} == {"service:web 1", "service:web 3"}
    assert len((await served.json("/v2/tasks?cluster=!a"))["items"]) == 50


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=a,,b", {"code": "invalid_filter", "parameter": "status", "position": 2}),
        ("status=", {"code": "invalid_filter", "parameter": "status", "position": 0}),
        ("status=a&status=b", {"code": "invalid_filter", "parameter": "status", "position": 0}),
        ("colour=red", {"code": "unknown_parameter", "parameter": "colour", "position": 0}),
        ("%ff%00=%ff", {"code": "unknown_parameter", "parameter": "�\x00", "position": 0}),
    ],
)
async def test_a_wrong_parameter_is_named(query: str, expected: dict[str, Any]) -> None:
    """400 with a code for programs, the parameter, and where in its value."""
    error = await _error(Served(), f"/v2/tasks?{query}", 400)
    assert error.pop("message")
    assert error == expected


async def test_one_object_by_id_beginning_or_arn() -> None:
    """The cluster and the object by name or ARN, encoded or not; a beginning that is not unique names candidates."""
    served = Served()
    key = served.tell_task(0xA1)
    served.tell_task(0xA2)
    item = (await served.json("/v2/tasks"))["items"][0]
    arn = f"{ACCOUNT}:cluster/default"
    for cluster in ("default", arn, quote(arn, safe="")):
        for name in ("000000a1", key.id, quote(key.id, safe="")):
            assert await served.json(f"/v2/tasks/{cluster}/{name}") == item
    error = await _error(served, "/v2/tasks/default/000000a", 400)
    assert (error["code"], "000000a1, 000000a2" in error["message"]) == ("ambiguous_id", True)
    for path in ("default/ff", "other/000000a1", "default/", "", "default", "%00/%00", "default/000000a1/x", "//"):
        assert (await _error(served, f"/v2/tasks/{path}", 404))["code"] == "not_found"
    assert (await _error(served, "/v2/tasks/default/000000a1?at=1", 400))["code"] == "invalid_parameter"


async def test_the_shelf_is_listed_with_reasons() -> None:
    """What could not be read is kept with why, and served like anything else."""
    served = Served()
    entry = shelve(
        "not json", Rejected("not JSON", "why"), source="q", time="2026-01-01T00:00:00Z", policy=served.policy
    )
    served.apply(entry)
    (item,) = (await served.json("/v2/quarantine"))["items"]
    assert (item["detail"]["reason"], item["detail"]["body"]) == ("not JSON", "not json")
    assert await served.json(f"/v2/quarantine/-/{item['key']['id'][:12]}") == item


async def test_drift_reports_and_the_loss_they_measure() -> None:
    """Newest first; the first pass into an empty store is no measure of loss."""
    served = Served()
    assert await served.json("/v2/drift") == {"eventLoss": {"corrections": 0, "seen": 0, "rate": None}, "reports": []}
    first = DriftReport("2026-01-01T00:00:00Z", 1.5, 9, True, True, {"a": ClusterDrift(seen=100, missed=100)})
    later = DriftReport(
        "2026-01-01T00:20:00Z",
        1.0,
        9,
        True,
        False,
        {"a": ClusterDrift(100, 1, 2, 1), "b": ClusterDrift(error="throttled")},
    )
    served.drift.add(first)
    served.drift.add(later)
    body = await served.json("/v2/drift")
    assert body["eventLoss"] == {"corrections": 4, "seen": 100, "rate": 0.04}
    assert [report["startedAt"] for report in body["reports"]] == [later.started_at, first.started_at]
    assert body["reports"][0]["clusters"]["b"]["error"] == "throttled"
    assert (await _error(served, "/v2/drift?x=1", 400))["code"] == "invalid_parameter"


async def test_secrets_stay_out_of_events_of_any_kind() -> None:
    """What the normalizer redacted is not found in any answer."""
    served = Served()
    served.policy = Policy()
    secret: dict[str, Any] = {
        "overrides": {"containerOverrides": [{"name": "a", "environment": [{"name": "K", "value": "s3cret"}]}]}
    }
    served.tell_task(1, **secret)
    served.tell(event("Something New", secret))
    for target in ("/v1/tasks", "/v2/tasks", "/v2/events"):
        answer = await served.ask(target)
        assert isinstance(answer, Response)
        assert b"s3cret" not in whole(answer)
        assert b'"K"' in whole(answer)


async def test_a_strangers_value_is_served_empty() -> None:
    """A stored value that is no envelope is listed with an empty detail, never an error."""
    served = Served()
    served.apply(Put(Key("task", "c", "x"), 1, b"\xff\x00"))
    (item,) = (await served.json("/v2/tasks"))["items"]
    assert item["detail"] == {}
    assert len((await served.json("/v1/tasks"))["items"]) == 1


async def test_a_long_list_is_one_text() -> None:
    """However many pieces a list is sent in, it is one JSON text with every object once, in key order."""
    served = Served()
    for number in range(500):
        served.tell_task(number)
    ids = [item["key"]["id"] for item in (await served.json("/v2/tasks"))["items"]]
    assert len(ids) == 500
    assert ids == sorted(ids)
