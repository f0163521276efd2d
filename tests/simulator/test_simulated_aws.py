"""Unmodified boto3 against the simulated region, every operation."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from css.simulator.catalogue import INSTANCE_TYPES
from css.simulator.ecs_api import EcsApi
from css.simulator.inventory import StillWorld
from css.simulator.region import Simulation
from css.simulator.world import LivingWorld
from tests.simulated_region import Region

Start = Callable[..., Region]


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


# --- ECS ------------------------------------------------------------------------------------------------------------


def test_clusters_are_listed_and_described(region: Start) -> None:
    """ListClusters pages, DescribeClusters counts what is in a cluster and answers failures for unknown ones."""
    aws = region(clusters=5, tasks=60, rate=0)
    pages = aws.ecs.get_paginator("list_clusters").paginate(PaginationConfig={"PageSize": 2})
    arns = [page["clusterArns"] for page in pages]
    assert [len(page) for page in arns] == [2, 2, 1]
    answer = aws.ecs.describe_clusters(clusters=["prod", arns[0][1], "nosuch"], include=["TAGS"])
    prod, second = answer["clusters"]
    assert (prod["clusterName"], second["clusterArn"]) == ("prod", arns[0][1])
    assert prod["tags"] == [{"key": "environment", "value": "prod"}]
    running = aws.ecs.list_tasks(cluster="prod")["taskArns"]
    assert prod["runningTasksCount"] == len(running) > 0
    assert prod["activeServicesCount"] == 6
    assert [(failure["arn"], failure["reason"]) for failure in answer["failures"]] == [("nosuch", "MISSING")]


def test_tasks_are_listed_in_pages(region: Start) -> None:
    """Every task once, in pages of at most 100 or as asked; RUNNING is the default, STOPPED must be asked for."""
    world = LivingWorld(Simulation(clusters=1, tasks=350, rate=0), time.time())
    aws = region(world=world)
    lister = aws.ecs.get_paginator("list_tasks")
    pages = [page["taskArns"] for page in lister.paginate(cluster="prod")]
    assert [len(page) for page in pages] == [100, 100, 100, 50]
    small = [
        arn for page in lister.paginate(cluster="prod", PaginationConfig={"PageSize": 7}) for arn in page["taskArns"]
    ]
    running = [arn for page in pages for arn in page]
    assert small == running
    stopped = [arn for page in lister.paginate(cluster="prod", desiredStatus="STOPPED") for arn in page["taskArns"]]
    assert stopped
    assert set(running) | set(stopped) == set(world.tasks())
    assert not set(running) & set(stopped)


def test_tasks_are_filtered(region: Start) -> None:
    """ListTasks by service, family, container instance and startedBy; an unknown service is an error."""
    aws = region(clusters=1, tasks=100, rate=0)
    tasks = aws.ecs.describe_tasks(cluster="prod", tasks=aws.ecs.list_tasks(cluster="prod")["taskArns"])["tasks"]

    def listed(**filters: Any) -> set[str]:
        return set(aws.ecs.list_tasks(cluster="prod", **filters)["taskArns"])

    of_service = {task["taskArn"] for task in tasks if task["group"] == "service:web-frontend"}
    assert listed(serviceName="web-frontend") == of_service
    assert of_service
    assert listed(family="web-frontend") == of_service
    instance = next(task["containerInstanceArn"] for task in tasks if "containerInstanceArn" in task)
    on_it = {task["taskArn"] for task in tasks if task.get("containerInstanceArn") == instance}
    assert listed(containerInstance=instance) == listed(containerInstance=instance.rpartition("/")[2]) == on_it
    started_by = tasks[0]["startedBy"]
    assert listed(startedBy=started_by) == {task["taskArn"] for task in tasks if task["startedBy"] == started_by}
    assert listed(launchType="FARGATE") == {task["taskArn"] for task in tasks if task["launchType"] == "FARGATE"}
    with pytest.raises(aws.ecs.exceptions.ServiceNotFoundException):
        listed(serviceName="nosuch")


def test_tasks_are_described_whole(region: Start) -> None:
    """By ARN or id, with times as times, tags on demand; what is missing is a failure, never an error."""
    aws = region(clusters=2, tasks=60, rate=0)
    arns = aws.ecs.list_tasks(cluster="prod")["taskArns"]
    short = arns[1].rpartition("/")[2]
    other = arns[0].replace("/prod/", "/staging/")
    answer = aws.ecs.describe_tasks(cluster="prod", tasks=[arns[0], short, other, "gone"], include=["TAGS"])
    assert [task["taskArn"] for task in answer["tasks"]] == arns[:2]
    assert answer["tasks"][0]["createdAt"].timestamp() < time.time()
    assert answer["tasks"][0]["version"] >= 4
    assert {tag["key"] for tag in answer["tasks"][0]["tags"]} == {"team", "environment"}
    gone = arns[0].rpartition("/")[0] + "/gone"
    assert [(failure["arn"], failure["reason"]) for failure in answer["failures"]] == [
        (other, "MISSING"),
        (gone, "MISSING"),
    ]
    assert aws.ecs.describe_tasks(cluster="prod", tasks=arns[:1])["tasks"][0]["tags"] == []


def test_instances_are_listed_and_described(region: Start) -> None:
    """All but the inactive ones without a status, else those of the status; no `clusterArn`, as in ECS."""
    world = LivingWorld(Simulation(clusters=1, tasks=200, rate=50, seed=3), time.time())
    for _ in range(2000):
        world.step(0.5)
    aws = region(world=world, rate=0)
    aws.control("pause", {})
    of_status: dict[str, set[str]] = {}
    for arn, instance in world.instances().items():
        of_status.setdefault(instance["status"], set()).add(arn)
    assert {"ACTIVE", "INACTIVE"} <= of_status.keys()
    listed = set(aws.ecs.list_container_instances(cluster="prod")["containerInstanceArns"])
    assert listed == {arn for status, arns in of_status.items() if status != "INACTIVE" for arn in arns}
    for status in ("ACTIVE", "DRAINING", "REGISTERING"):
        arns = aws.ecs.list_container_instances(cluster="prod", status=status)["containerInstanceArns"]
        assert set(arns) == of_status.get(status, set())
    answer = aws.ecs.describe_container_instances(cluster="prod", containerInstances=[*sorted(listed)[:2], "gone"])
    described = answer["containerInstances"][0]
    attributes = {attribute["name"]: attribute.get("value") for attribute in described["attributes"]}
    assert attributes["ecs.instance-type"] in {kind.name for kind in INSTANCE_TYPES}
    assert attributes["ecs.availability-zone"] in {"us-east-1a", "us-east-1b", "us-east-1c"}
    assert "clusterArn" not in described
    assert [resource["name"] for resource in described["remainingResources"]] == ["CPU", "MEMORY", "PORTS", "PORTS_UDP"]
    assert [failure["reason"] for failure in answer["failures"]] == ["MISSING"]


def test_services_are_listed_and_described(region: Start) -> None:
    """In pages of ten at most by default; a description has deployments, events and counts."""
    aws = region(clusters=1, services=25, tasks=60, rate=0)
    pages = [page["serviceArns"] for page in aws.ecs.get_paginator("list_services").paginate(cluster="prod")]
    assert [len(page) for page in pages] == [10, 10, 5]
    answer = aws.ecs.describe_services(cluster="prod", services=[pages[0][0], "api-billing", "nosuch"])
    first = answer["services"][0]
    assert first["serviceName"] == "web-frontend"
    assert first["runningCount"] == first["desiredCount"] == first["deployments"][0]["runningCount"]
    assert first["deployments"][0]["rolloutState"] == "COMPLETED"
    assert [failure["reason"] for failure in answer["failures"]] == ["MISSING"]


def test_ecs_refuses_as_ecs_does(region: Start) -> None:
    """Unknown clusters, too many references, wrong tokens and numbers: the errors that boto3 knows."""
    aws = region(clusters=1, tasks=10, rate=0)
    with pytest.raises(aws.ecs.exceptions.ClusterNotFoundException):
        aws.ecs.list_tasks(cluster="nosuch")
    with pytest.raises(aws.ecs.exceptions.ClusterNotFoundException):
        aws.ecs.describe_tasks(tasks=["x"])  # the cluster "default"
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("describe_tasks", {"tasks": ["x"] * 101}),
        ("describe_tasks", {"tasks": []}),
        ("describe_services", {"services": ["x"] * 11}),
        ("list_tasks", {"maxResults": 101}),
        ("list_tasks", {"nextToken": "nonsense"}),
        ("list_tasks", {"desiredStatus": "DANCING"}),
    ]
    for call, arguments in wrong:
        with pytest.raises(aws.ecs.exceptions.InvalidParameterException):
            getattr(aws.ecs, call)(cluster="prod", **arguments)
    with pytest.raises(ClientError) as error:
        aws.ecs.list_account_settings()
    assert code(error) == "UnsupportedFeatureException"


def test_a_page_neither_repeats_nor_skips_what_stays() -> None:
    """Between two pages the world goes on: all tasks that were there before and after are listed, once."""
    world = LivingWorld(Simulation(clusters=1, tasks=300, rate=100), time.time())
    api = EcsApi(world.inventory)
    before = set(world.tasks())
    listed: list[str] = []
    token: str | None = ""
    while token is not None:
        body = api.call("ListTasks", {"cluster": "prod", "nextToken": token})
        page = json.loads(body if isinstance(body, bytes) else b"".join(body))
        listed += page["taskArns"]
        token = page.get("nextToken")
        for _ in range(20):
            world.step(0.5)
    assert len(listed) == len(set(listed)) > 300
    stayed = {arn for arn, task in world.tasks().items() if arn in before and task["desiredStatus"] == "RUNNING"}
    assert stayed
    assert stayed <= set(listed)


def test_a_fixed_world_is_served_as_it_is(region: Start) -> None:
    """Objects as the API describes them, by cluster ARN: the worlds of the recorded conformance scenarios."""
    prefix = "arn:aws:ecs:us-east-1:111122223333"
    task = {"taskArn": f"{prefix}:task/1", "lastStatus": "RUNNING", "createdAt": 1481042465.702, "version": 4}
    instance = {"containerInstanceArn": f"{prefix}:container-instance/2", "status": "ACTIVE", "version": 7}
    world = StillWorld(
        {
            f"{prefix}:cluster/default": {
                "tasks": {f"{prefix}:task/1": task},
                "instances": {f"{prefix}:container-instance/2": instance},
            },
            f"{prefix}:cluster/empty": {},
        }
    )
    aws = region(world=world)
    assert aws.ecs.list_clusters()["clusterArns"] == [f"{prefix}:cluster/default", f"{prefix}:cluster/empty"]
    assert aws.ecs.list_tasks()["taskArns"] == [f"{prefix}:task/1"]
    assert aws.ecs.list_tasks(desiredStatus="STOPPED")["taskArns"] == []
    (described,) = aws.ecs.describe_tasks(tasks=[f"{prefix}:task/1"])["tasks"]
    assert (described["lastStatus"], described["createdAt"].timestamp()) == ("RUNNING", 1481042465.702)
    arns = aws.ecs.list_container_instances()["containerInstanceArns"]
    assert aws.ecs.describe_container_instances(containerInstances=arns)["containerInstances"][0]["version"] == 7
    assert aws.ecs.list_tasks(cluster="empty")["taskArns"] == []


# --- SQS ------------------------------------------------------------------------------------------------------------


def test_a_message_goes_through_boto3(region: Start) -> None:
    """Sent, received with attributes, deleted; the queue is found by name, its depth is counted."""
    aws = region(tasks=0, rate=0)
    url = aws.queue
    assert aws.sqs.list_queues()["QueueUrls"] == [url]
    sent = aws.sqs.send_message(QueueUrl=url, MessageBody='{"ä": 1}')
    (message,) = aws.sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"])["Messages"]
    assert (message["MessageId"], message["MD5OfBody"]) == (sent["MessageId"], sent["MD5OfMessageBody"])
    assert message["Body"] == '{"ä": 1}'
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert abs(int(message["Attributes"]["SentTimestamp"]) / 1000 - time.time()) < 60
    attributes = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
    assert attributes["QueueArn"] == "arn:aws:sqs:us-east-1:123456789012:event_stream"
    aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    one = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessagesNotVisible"])
    assert one["Attributes"] == {"ApproximateNumberOfMessagesNotVisible": "0"}


def test_batches_go_through_boto3(region: Start) -> None:
    """Ten at a time are sent, extended and deleted; each entry fails by itself."""
    aws = region(tasks=0, rate=0)
    url = aws.queue
    entries: Any = [{"Id": str(at), "MessageBody": f"m{at}"} for at in range(10)]
    assert len(aws.sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == 10
    messages = aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    handles: Any = [{"Id": str(at), "ReceiptHandle": m["ReceiptHandle"]} for at, m in enumerate(messages)]
    longer: Any = [entry | {"VisibilityTimeout": 0} for entry in handles[:5]] + [
        {"Id": "bad", "ReceiptHandle": "nonsense", "VisibilityTimeout": 0}
    ]
    answer = aws.sqs.change_message_visibility_batch(QueueUrl=url, Entries=longer)
    assert [entry["Id"] for entry in answer["Successful"]] == ["0", "1", "2", "3", "4"]
    assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("bad", "ReceiptHandleIsInvalid")]
    back = aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert sorted(message["Body"] for message in back) == ["m0", "m1", "m2", "m3", "m4"]
    deleted = aws.sqs.delete_message_batch(QueueUrl=url, Entries=handles)
    assert len(deleted["Successful"]) == 10  # five of them with stale handles
    assert aws.control("truth?only=queue")["queue"]["in_flight"] == 5


def test_a_long_poll_ends_when_something_comes(region: Start) -> None:
    """A waiting receive is answered at once when a message is sent, or comes back after its visibility timeout."""
    aws = region(tasks=0, rate=0)
    url = aws.queue
    aws.sqs.send_message(QueueUrl=url, MessageBody="a", DelaySeconds=1)
    begun = time.monotonic()
    (message,) = aws.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=9, VisibilityTimeout=1)["Messages"]
    (again,) = aws.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=9)["Messages"]
    assert 1.9 < time.monotonic() - begun < 6
    assert (message["Body"], again["Body"]) == ("a", "a")
    assert aws.sqs.receive_message(QueueUrl=url).get("Messages") is None


def test_a_long_poll_is_woken_by_a_new_message(region: Start) -> None:
    """Whoever waits gets a message as soon as another sends it."""
    aws = region(tasks=0, rate=0)
    url = aws.queue
    with ThreadPoolExecutor(1) as waiter:
        begun = time.monotonic()
        waiting = waiter.submit(aws.sqs.receive_message, QueueUrl=url, WaitTimeSeconds=9)
        while not aws.control("truth?only=queue")["requests"].get("ReceiveMessage"):
            time.sleep(0.01)
        aws.sqs.send_message(QueueUrl=url, MessageBody="a")
        assert [message["Body"] for message in waiting.result()["Messages"]] == ["a"]
        assert time.monotonic() - begun < 6


def test_sqs_refuses_as_sqs_does(region: Start) -> None:
    """An unknown queue, a wrong handle, wrong numbers and batches: the errors that boto3 knows."""
    aws = region(tasks=0, rate=0)
    url = aws.queue
    with pytest.raises(aws.sqs.exceptions.QueueDoesNotExist) as error:
        aws.sqs.get_queue_url(QueueName="nosuch")
    assert code(error) == "AWS.SimpleQueueService.NonExistentQueue"
    with pytest.raises(aws.sqs.exceptions.QueueDoesNotExist):
        aws.sqs.receive_message(QueueUrl=url + "x")
    with pytest.raises(aws.sqs.exceptions.ReceiptHandleIsInvalid):
        aws.sqs.delete_message(QueueUrl=url, ReceiptHandle="nonsense")
    with pytest.raises(ClientError, match="MaxNumberOfMessages"):
        aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=11)
    with pytest.raises(aws.sqs.exceptions.InvalidMessageContents):
        aws.sqs.send_message(QueueUrl=url, MessageBody="")
    with pytest.raises(ClientError, match="1048576"):
        aws.sqs.send_message(QueueUrl=url, MessageBody="x" * 1_048_577)
    with pytest.raises(aws.sqs.exceptions.EmptyBatchRequest):
        aws.sqs.delete_message_batch(QueueUrl=url, Entries=[])
    entry: Any = {"Id": "a", "ReceiptHandle": "x"}
    with pytest.raises(aws.sqs.exceptions.BatchEntryIdsNotDistinct):
        aws.sqs.delete_message_batch(QueueUrl=url, Entries=[entry, entry])
    with pytest.raises(aws.sqs.exceptions.TooManyEntriesInBatchRequest):
        aws.sqs.delete_message_batch(QueueUrl=url, Entries=[entry | {"Id": str(at)} for at in range(11)])


def test_the_worlds_events_arrive_in_the_queue(region: Start) -> None:
    """A living region's queue holds its events; at rest the newest of each object is what ECS describes."""
    aws = region(rate=200, tasks=100, clusters=2)
    newest: dict[str, Any] = {}
    while len(newest) < 20:
        newest |= {event["resources"][0]: event["detail"] for event in aws.drain()}
    assert aws.control("quiesce", {})["paused"] is True
    newest |= {event["resources"][0]: event["detail"] for event in aws.drain()}
    truth = aws.control("truth")
    tasks = {arn: detail for arn, detail in newest.items() if ":task/" in arn}
    assert tasks == {arn: truth["tasks"][arn] for arn in tasks}
    for cluster in ("prod", "staging"):
        arns = [arn for arn in tasks if f"/{cluster}/" in arn][:100]
        for described in aws.ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"]:
            told = tasks[described["taskArn"]]
            assert (described["version"], described["lastStatus"]) == (told["version"], told["lastStatus"])
    assert aws.drain() == []


def test_a_queue_is_preloaded(region: Start) -> None:
    """`preload` events lie in the queue before the endpoint answers; alone they tell the whole world."""
    aws = region(rate=0, tasks=50, clusters=1, preload=300)
    events = aws.drain()
    assert len(events) >= 300
    newest: dict[str, int] = {}
    for event in events:
        arn = event["resources"][0]
        newest[arn] = max(newest.get(arn, 0), event["detail"].get("version", 0))
    truth = aws.control("truth")
    for arn, detail in (truth["tasks"] | truth["instances"]).items():
        assert newest[arn] == detail["version"]


def test_other_requests_are_refused(region: Start) -> None:
    """What is neither SQS, ECS nor a control gets an error, not a hang."""
    aws = region(tasks=0, rate=0)
    for path, data in [("/", None), ("/", b"{}"), ("/_simulator/nosuch", None), ("/_simulator/faults", b"[")]:
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(aws.url + path, data)  # noqa: S310 - our own address
        assert error.value.code in (400, 404)
        assert json.load(error.value)
        error.value.close()
