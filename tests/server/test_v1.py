"""/v1 where the Go service was broken and where nothing was recorded: mended fields, paths, methods, streams."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from css import arn, envelope
from css.errors import Rejected
from css.model import Batch, Gone, Head, Key, Put, Record
from css.server import v1
from css.server.v1_entity import entity
from tests.conformance import DATA
from tests.served import ACCOUNT, Served, event, header, whole

INSTANCE = f"{ACCOUNT}:container-instance/default/abc"


async def _entity(served: Served, key: Key) -> dict[str, Any]:
    kind = "tasks" if key.kind == "task" else "instances"
    answer: dict[str, Any] = (await served.json(f"/v1/{kind}/{key.cluster}/{key.id}"))["entity"]
    return answer


@pytest.mark.parametrize("name", ["task-ec2-2016", "task-fargate-2020", "task-fargate-stopped-2024"])
async def test_real_task_events_are_served(name: str) -> None:
    """Every real task event is listed and found by its ARN; a Fargate task has an empty container instance."""
    served = Served()
    body = (DATA / "events" / f"{name}.json").read_bytes()
    served.tell(body)
    detail = json.loads(body)["detail"]
    cluster = detail["clusterArn"].rpartition("/")[2]
    (item,) = (await served.json("/v1/tasks"))["items"]
    assert item == await served.json(f"/v1/tasks/{cluster}/{detail['taskArn']}")
    assert item["entity"]["taskARN"] == detail["taskArn"]
    assert item["entity"]["containerInstanceARN"] == detail.get("containerInstanceArn", "")
    assert item["entity"]["createdAt"] == detail["createdAt"]
    assert item["metadata"] == {"entityVersion": "1"}


async def test_a_broken_neighbour_does_not_break_the_list() -> None:
    """An object with nulls and fields of unexpected shapes is served without them, and so are all others."""
    served = Served()
    served.tell_task(1, containers=[{"name": None, "lastStatus": "RUNNING", "exitCode": 3}], overrides=None)
    served.tell_task(2, containers="none", createdAt=5, overrides={"containerOverrides": [{"command": "x"}]})
    served.tell_task(3)
    first, second, third = (item["entity"] for item in (await served.json("/v1/tasks"))["items"])
    assert first["containers"] == [
        {"containerARN": "", "exitCode": 3, "lastStatus": "RUNNING", "name": "", "networkBindings": None}
    ]
    assert first["overrides"] == {"containerOverrides": []}
    assert (second["containers"], second["createdAt"], second["overrides"]) == ([], "", {"containerOverrides": []})
    assert second["lastStatus"] == third["lastStatus"] == "RUNNING"


@settings(deadline=None, max_examples=100)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["name", "value", "containers", "overrides", "networkBindings", "type"]),
                inner,
                max_size=3,
            ),
        ),
        max_leaves=8,
    ),
    st.sampled_from(["containers", "overrides", "attributes", "registeredResources", "versionInfo", "createdAt"]),
    st.sampled_from(["task", "instance"]),
)
def test_every_detail_becomes_an_entity(value: Any, field: str, kind: Any) -> None:
    """Whatever a stored object's fields hold, it has an entity with all required fields."""
    served = Served()
    body = envelope.encode({field: value, "lastStatus": "X"}, detail_type="t", source="aws.ecs")
    served.apply(Put(Key(kind, "c", "id"), 1, body))
    made = json.loads(entity(served.live.view.rows(kind)[0]))["entity"]
    required = {
        "task": {"clusterARN", "containerInstanceARN", "containers", "createdAt", "desiredStatus", "lastStatus"}
        | {"overrides", "taskARN", "taskDefinitionARN"},
        "instance": {"agentConnected", "clusterARN", "containerInstanceARN", "registeredResources", "status"}
        | {"remainingResources", "versionInfo"},
    }
    assert required[kind] <= made.keys()


async def test_resources_are_texts() -> None:
    """By their type: integers, longs, doubles with two places, string sets joined by commas."""
    served = Served()
    resources = [
        {"name": "CPU", "type": "INTEGER", "integerValue": 2048, "doubleValue": 0.0, "longValue": 0},
        {"name": "BYTES", "type": "LONG", "longValue": 2**40},
        {"name": "LOAD", "type": "DOUBLE", "doubleValue": 1.005, "integerValue": 0},
        {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ["22", "80"], "integerValue": 0},
    ]
    detail = {
        "clusterArn": f"{ACCOUNT}:cluster/default",
        "containerInstanceArn": INSTANCE,
        "version": 1,
        "registeredResources": resources,
        "remainingResources": resources[:1],
    }
    served.tell(event(envelope.INSTANCE_CHANGE, detail))
    made = await _entity(served, Key("instance", "default", INSTANCE))
    assert [r["value"] for r in made["registeredResources"]] == ["2048", "1099511627776", "1.00", "22,80"]
    assert made["remainingResources"] == [{"name": "CPU", "type": "INTEGER", "value": "2048"}]
    assert made["versionInfo"] == {}
    assert made["agentConnected"] is False
    assert made["attributes"] is None
    assert "EC2InstanceID" not in made


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
@pytest.mark.parametrize("cluster", ["default", "1prod", "x", "_-_"])
@pytest.mark.parametrize("middle", ["", "{cluster}/"])
async def test_every_arn_format_and_cluster_name(partition: str, cluster: str, middle: str) -> None:
    """Short and long ARNs of every partition, and every cluster name ECS accepts, work in paths and in filters."""
    served = Served()
    account = f"arn:{partition}:ecs:us-east-1:111122223333"
    name = f"{account}:task/{middle.format(cluster=cluster)}257867b5312c"
    served.tell(
        event(envelope.TASK_CHANGE, {"clusterArn": f"{account}:cluster/{cluster}", "taskArn": name, "version": 1})
    )
    found = await served.json(f"/v1/tasks/{cluster}/{name}")
    assert found["entity"]["taskARN"] == name
    assert await served.json(f"/v1/tasks/{cluster}/{quote(name, safe='')}") == found
    for value in (cluster, f"{account}:cluster/{cluster}", quote(f"{account}:cluster/{cluster}", safe="")):
        assert (await served.json(f"/v1/tasks?cluster={value}"))["items"] == [found]
    assert (await served.json("/v1/tasks?cluster=other"))["items"] == []


_SEGMENT = st.sampled_from(
    ["", "default", "x", "%", "%2F", "%zz", "..", ".", "task", "arn:aws:ecs:us-east-1:111122223333:task", "\x00", "é"]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(_SEGMENT, max_size=6), st.sampled_from([v1.TASKS, v1.INSTANCES]))
def test_every_path_names_an_object_or_none(segments: list[str], collection: v1.Collection) -> None:
    """Whatever the path, the answer is the object, "not found", "page not found" or a redirect; never an error."""
    served = Served()
    path = "/v1/tasks/" + "/".join(segments)

    async def ask() -> None:
        answer = await served.ask(path)
        assert answer.status in (301, 404)
        if answer.status == 301:
            assert header(answer, "Location") == path[:-1]

    trio.run(ask)


@settings(deadline=None, max_examples=200)
@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True),
    st.from_regex(r"arn:aws(-cn|-us-gov)?:ecs:[a-z0-9-]{1,9}:[0-9]{12}:task/([A-Za-z0-9_-]{1,9}/)?[a-z0-9-]{1,36}"),
)
def test_the_path_of_a_key_leads_back_to_it(cluster: str, name: str) -> None:
    """A task's path, encoded or not, names that task and no other."""
    try:
        arn.parse(name, type="task")
    except Rejected:
        return
    served = Served()
    key = Key("task", cluster, name)
    served.apply(Put(key, 1, envelope.encode({"taskArn": name}, detail_type="t", source="aws.ecs")))

    async def ask() -> None:
        for path in (f"{cluster}/{name}", quote(f"{cluster}/{name}"), quote(f"{cluster}/{name}", safe="")):
            assert (await served.json(f"/v1/tasks/{path}"))["entity"]["taskARN"] == name
        assert (await served.ask(f"/v1/tasks/{cluster}x/{name}")).status == 404

    trio.run(ask)


async def test_lists_are_in_key_order_and_whole_at_any_length() -> None:
    """However many pieces a list is sent in, it is one JSON text with every object, in key order."""
    served = Served()
    for number in (*range(1000, 0, -1), 2000):
        served.tell_task(number, cluster="b" if number % 2 else "a")
    for count, target in [(1001, "/v1/tasks"), (501, "/v1/tasks?cluster=a"), (500, "/v1/tasks?cluster=b")]:
        items = (await served.json(target))["items"]
        assert len(items) == count
        keys = [(item["entity"]["clusterARN"], item["entity"]["taskARN"]) for item in items]
        assert keys == sorted(keys)


async def test_an_entity_follows_its_object() -> None:
    """The kept entity is of the object's present revision, with that as its version."""
    served = Served()
    key = served.tell_task(1, version=1, lastStatus="PENDING")
    assert (await _entity(served, key))["lastStatus"] == "PENDING"
    served.tell_task(1, version=2, lastStatus="RUNNING")
    one = await served.json(f"/v1/tasks/{key.cluster}/{key.id}")
    assert (one["entity"]["lastStatus"], one["metadata"]["entityVersion"]) == ("RUNNING", "2")
    served.apply(Gone(key, 2, 2))
    assert (await served.ask(f"/v1/tasks/{key.cluster}/{key.id}")).status == 404
    assert (await served.json("/v1/tasks"))["items"] == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
@pytest.mark.parametrize("path", ["/v1/tasks", f"/v1/instances/default/{INSTANCE}", "/v1/stream/tasks"])
async def test_other_methods_are_refused(method: str, path: str) -> None:
    """Everything is read: 405 with what is allowed."""
    answer = await Served().ask(path, method)
    assert (answer.status, answer.content_type) == (405, v1.TEXT)
    assert header(answer, "Allow") == "GET, HEAD"


async def test_head_answers_as_get() -> None:
    """The same answer; that only its head is sent is the connection's work."""
    served = Served()
    served.tell_task(1)
    head, get = await served.ask("/v1/tasks", "HEAD"), await served.ask("/v1/tasks")
    assert (head.status, head.headers, whole(head)) == (get.status, get.headers, whole(get))
    answer = await served.answer("/v1/stream/tasks", "HEAD")
    assert (answer.status, answer.content_type) == (200, v1.LINES)
    assert (await served.ask("/v1/stream/tasks?entityVersion=x", "HEAD")).status == 400


async def test_a_slash_too_many_is_redirected_with_its_query() -> None:
    """As the Go service's router did; the page it sends is safe in a browser."""
    answer = await Served().ask("/v1/stream/tasks/?entityVersion=5&x=<script>")
    assert (answer.status, header(answer, "Location")) == (301, "/v1/stream/tasks?entityVersion=5&x=<script>")
    assert b"<script>" not in whole(answer)


# --- Streams -----------------------------------------------------------------------------------------------------


def _seen(lines: list[Any]) -> list[tuple[str, str]]:
    return [(line["metadata"]["entityVersion"], line["entity"]["lastStatus"]) for line in lines]


async def test_a_stream_starts_from_a_version_inclusive() -> None:
    """From `entityVersion` on, that one included: the states a task went through, then what comes; no removals."""
    served = Served()
    for version, status in enumerate(["PENDING", "RUNNING", "STOPPED"], 1):
        key = served.tell_task(1, version=version, lastStatus=status)
    async with trio.open_nursery() as nursery:
        follower = await served.follow(nursery, "/v1/stream/tasks?entityVersion=2")
        assert _seen(follower.lines) == [("2", "RUNNING"), ("3", "STOPPED")]
        served.apply(Gone(key, 3, 3))
        served.tell_task(2, lastStatus="PENDING")
        await trio.testing.wait_all_tasks_blocked()
        assert _seen(follower.lines)[2:] == [("5", "PENDING")]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["x", "-1", "0" * 5000, "9" * 5000, "9" * 19, "%C2%B2"])
async def test_a_version_that_is_no_number_of_ours_is_refused(version: str) -> None:
    """However long the text is: 400, never a defect."""
    answer = await Served().ask(f"/v1/stream/tasks?entityVersion={version}")
    assert (answer.status, whole(answer)) == (400, b"Invalid entity version\n")


@pytest.mark.parametrize("target", ["/v1/stream/tasks", "/v1/stream/tasks?entityVersion=&colour=red"])
async def test_a_stream_without_a_version_starts_now(target: str) -> None:
    """Nothing of the past; parameters it does not know are ignored, as they were."""
    served = Served()
    served.tell_task(1)
    async with trio.open_nursery() as nursery:
        follower = await served.follow(nursery, target)
        assert follower.body == b""
        served.tell_task(2)
        await trio.testing.wait_all_tasks_blocked()
        assert _seen(follower.lines) == [("2", "RUNNING")]
        nursery.cancel_scope.cancel()


async def test_a_stream_can_resume_at_the_revision_the_view_was_loaded_at() -> None:
    """After a restart the last version a client saw is accepted; that object comes again, as always."""
    served = Served()
    records = [
        Record(Key("task", "c", f"{n}"), n, 1, envelope.encode({"lastStatus": f"S{n}"}, detail_type="t", source="s"))
        for n in (3, 7)
    ]
    served.live.load(Head("e", 7), records)
    assert (await served.ask("/v1/stream/tasks?entityVersion=6")).status == 400
    assert (await served.ask("/v1/stream/tasks?entityVersion=8")).status == 400
    async with trio.open_nursery() as nursery:
        follower = await served.follow(nursery, "/v1/stream/tasks?entityVersion=7")
        assert _seen(follower.lines) == [("7", "S7")]
        served.tell_task(1)
        await trio.testing.wait_all_tasks_blocked()
        assert _seen(follower.lines)[1:] == [("8", "RUNNING")]
        nursery.cancel_scope.cancel()


async def test_no_change_is_missed_while_a_line_is_being_sent() -> None:
    """What changes while the client reads slowly comes afterwards, all of it, in order."""
    served = Served()
    async with trio.open_nursery() as nursery:
        follower = await served.follow(nursery, "/v1/stream/tasks")
        with follower.held():
            for number in range(200):
                served.tell_task(number)
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert [version for version, _ in _seen(follower.lines)] == [str(n) for n in range(1, 201)]
        nursery.cancel_scope.cancel()


async def test_a_follower_that_lost_changes_is_cut_off() -> None:
    """Below the log's floor the body is cut off, not finished; one that has seen everything goes on."""
    served = Served()
    served.tell_task(1)
    async with trio.open_nursery() as nursery:
        follower = await served.follow(nursery, "/v1/stream/tasks")
        served.live.load(Head("e", 1), [])
        await trio.testing.wait_all_tasks_blocked()
        assert not follower.cut_off
        served.live.load(Head("e", 50), [])
        await trio.testing.wait_all_tasks_blocked()
        assert follower.cut_off


async def test_a_stream_of_tasks_has_no_instances() -> None:
    """Changes of other kinds move a follower on silently, so that it does not fall behind."""
    served = Served()
    async with trio.open_nursery() as nursery:
        follower = await served.follow(nursery, "/v1/stream/instances")
        served.tell_task(1)
        await trio.testing.wait_all_tasks_blocked()
        served.live.log.compact(1)
        served.live.apply(Batch(2, ()))
        await trio.testing.wait_all_tasks_blocked()
        assert not follower.cut_off
        assert follower.body == b""
        nursery.cancel_scope.cancel()


async def test_a_stream_is_counted_while_it_is_open() -> None:
    """The gauge of followers rises and falls with it, also when it is cancelled."""
    served = Served()

    def followers() -> float | None:
        return served.metrics.registry.get_sample_value("css_followers", {"route": "/v1/stream/tasks"})

    async with trio.open_nursery() as nursery:
        await served.follow(nursery, "/v1/stream/tasks")
        assert followers() == 1
        nursery.cancel_scope.cancel()
    assert followers() == 0
