"""Reading SQS: from the simulated region, which can fail in every way, and from moto, which others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import boto3
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from css.config import Aws
from css.config import Source as Settings
from css.errors import ConfigError
from css.metrics import Metrics
from css.model import Message
from css.source import sqs_queue
from css.source.sqs import SqsSource
from css.source.sqs_queue import parse_queue, unwrapped
from css.status import Status
from tests.simulated_region import Region
from tests.source.reading import reading, until

Start = Callable[..., Region]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "simulated", "SECRET_ACCESS_KEY": "simulated", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def send(place: Region, *bodies: str) -> None:
    for body in bodies:
        place.sqs.send_message(QueueUrl=place.queue, MessageBody=body)


def depth(place: Region) -> tuple[int, int]:
    queue = place.control("truth?only=queue")["queue"]
    return queue["visible"], queue["in_flight"]


async def test_a_message_stays_until_it_is_settled(region: Start) -> None:
    """Nothing is deleted before `settled`; then everything is, in batches of ten."""
    place = region(tasks=0, rate=0)
    send(place, *(f"message {number}" for number in range(25)))
    async with reading(place.url) as at_work:
        assert sorted(await at_work.until(25)) == sorted(f"message {number}" for number in range(25))
        assert depth(place) == (0, 25)
        at_work.settle()
        await until(lambda: depth(place) == (0, 0))
        assert at_work.status.ready
    assert at_work.acknowledged == 25


async def test_what_is_not_settled_at_the_end_is_free_again(region: Start) -> None:
    """Stopped between receiving and settling, the messages are visible at once, not after their time."""
    place = region(tasks=0, rate=0)
    send(place, "one", "two")
    async with reading(place.url) as at_work:
        await at_work.until(2)
        next(message for message in at_work.messages if message.body == "one").settled()
    await until(lambda: depth(place) == (1, 0), 3)
    async with reading(place.url) as again:
        assert await again.until(1) == ["two"]


async def test_what_is_held_for_long_stays_invisible(region: Start) -> None:
    """While the writer is behind, the visibility is extended: nobody else gets the message."""
    place = region(tasks=0, rate=0)
    send(place, "held")
    async with reading(place.url) as at_work:
        await at_work.until(1)
        await trio.sleep(13)  # longer than the visibility: this is about real time passing at the queue
        assert depth(place) == (0, 1)
        assert len(at_work.messages) == 1


async def test_reading_stops_when_too_much_is_unsettled(region: Start) -> None:
    """Backpressure reaches the queue: past the bound nothing more is received until something is settled."""
    place = region(tasks=0, rate=0)
    entries = [{"Id": str(n), "MessageBody": "x"} for n in range(10)]
    for _ in range(130):
        place.sqs.send_message_batch(QueueUrl=place.queue, Entries=entries)  # type: ignore[arg-type]
    async with reading(place.url) as at_work:
        await at_work.until(1000)
        with trio.move_on_after(0.5):
            await at_work.until(1300)
        held = len(at_work.messages)
        assert 1000 <= held <= 1020
        at_work.settle()
        await at_work.until(1300)
        for message in at_work.messages[held:]:
            message.settled()
        await until(lambda: depth(place) == (0, 0))


@pytest.mark.parametrize("fault", [{"errors": 1.0}, {"hang": True}])
async def test_a_failing_queue_is_tried_again(region: Start, fault: dict[str, Any]) -> None:
    """5xx and silence are reported and survived; reading goes on by itself once the queue is back."""
    place = region(tasks=0, rate=0)
    place.control("faults", fault)
    async with reading(place.url) as at_work:
        if "errors" in fault:
            await until(lambda: "GetQueueUrl" in at_work.status.missing().get("queue", ""))
        await trio.to_thread.run_sync(place.control, "faults", {})
        send(place, "after")
        assert await at_work.until(1, 40) == ["after"]
        await until(lambda: at_work.status.ready)


async def test_a_missing_queue_is_named_and_waited_for(region: Start) -> None:
    """A queue that does not exist may yet: the text says what to look at."""
    place = region(tasks=0, rate=0)
    async with reading(place.url, "no_such_queue") as at_work:
        await until(lambda: "no such queue in this account" in at_work.status.missing()["queue"])


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("spelling", ["{name}", "sqs://{name}", "{url}", "{arn}"])
async def test_queues_are_named_in_four_ways(moto: str, spelling: str) -> None:
    """Name, sqs://name, URL and ARN lead to the same queue, on an SQS that we did not write."""
    client = boto3.client("sqs", endpoint_url=moto, region_name="us-east-1")
    name = f"q{abs(hash(spelling))}"
    url = client.create_queue(QueueName=name)["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    client.send_message(QueueUrl=url, MessageBody="hello")
    async with reading(moto, spelling.format(name=name, url=url, arn=arn)) as at_work:
        assert await at_work.until(1) == ["hello"]
        at_work.settle()
    counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"]  # type: ignore[arg-type]
    client.close()
    assert set(left.values()) == {"0"}


async def test_an_arn_says_the_region(moto: str) -> None:
    """The region of the queue's own name goes before the one that is set for everything."""
    client = boto3.client("sqs", endpoint_url=moto, region_name="eu-west-1")
    url = client.create_queue(QueueName="far")["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody="from afar")
    client.close()
    async with reading(moto, "arn:aws:sqs:eu-west-1:123456789012:far", region="us-east-1") as at_work:
        assert await at_work.until(1) == ["from afar"]


async def test_sns_wrapped_messages_arrive_unwrapped(moto: str) -> None:
    """A queue subscribed to a topic, without raw delivery, brings the events themselves."""
    sqs = boto3.client("sqs", endpoint_url=moto, region_name="us-east-1")
    sns = boto3.client("sns", endpoint_url=moto, region_name="us-east-1")
    sqs.create_queue(QueueName="wrapped")
    topic = sns.create_topic(Name="events")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:wrapped")
    event = json.dumps({"detail-type": "ECS Task State Change", "detail": {"text": 'quo"ted \u00e9'}})
    sns.publish(TopicArn=topic, Message=event)
    sqs.close()
    sns.close()
    async with reading(moto, "wrapped") as at_work:
        assert await at_work.until(1) == [event]


def test_sns_is_unwrapped() -> None:
    """A notification's message is the message; what only looks like one is left as it is."""
    event = json.dumps({"detail-type": "x", "detail": {}})
    assert unwrapped(json.dumps({"Type": "Notification", "Message": event, "TopicArn": "t"})) == event
    for other in (
        event,
        '{"Type": "SubscriptionConfirmation", "Message": "m"}',
        '{"Type": "Notification", "Message": {}}',
        '{"Type": "Notification"}',
        '{"detail": {"Type": "Notification", "Message": "m"}}',
        '"Notification" \ud800',
        '{"Type": "Notification", "Message": ' + "[" * 100_000,
    ):
        assert unwrapped(other) == other


@given(st.text())
@settings(deadline=None, max_examples=50)
def test_any_text_is_wrapped_and_unwrapped(text: str) -> None:
    """Unwrapping is exact, and never fails."""
    assert unwrapped(json.dumps({"Type": "Notification", "Message": text})) == text
    assert unwrapped(text) == text


@pytest.mark.parametrize(
    ("url", "region", "endpoint"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/111122223333/q", "eu-west-1", ""),
        ("https://sqs.cn-north-1.amazonaws.com.cn/111122223333/q", "cn-north-1", ""),
        ("https://eu-west-1.queue.amazonaws.com/111122223333/q", "eu-west-1", ""),
        ("https://queue.amazonaws.com/111122223333/q.fifo", "", ""),
        (
            "https://vpce-1-a.sqs.us-east-2.vpce.amazonaws.com/111122223333/q",
            "us-east-2",
            "https://vpce-1-a.sqs.us-east-2.vpce.amazonaws.com",
        ),
        ("https://sqs-fips.us-west-2.amazonaws.com/1/q", "us-west-2", "https://sqs-fips.us-west-2.amazonaws.com"),
        ("http://localhost:4566/000000000000/q", "", "http://localhost:4566"),
        (
            "https://sqs.eu-west-1.amazonaws.com.evil.example/1/q",
            "eu-west-1",
            "https://sqs.eu-west-1.amazonaws.com.evil.example",
        ),
    ],
)
def test_a_url_says_where_to_ask(url: str, region: str, endpoint: str) -> None:
    """Of a public endpoint the region, of any other the address itself: requests go where the URL points."""
    queue = parse_queue(url)
    assert (queue.url, queue.region, queue.endpoint) == (url, region, endpoint)


async def test_a_url_needs_no_endpoint_beside_it(region: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of a simulated region's queue is enough to reach it."""
    place = region(tasks=0, rate=0)
    send(place, "here")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    async with reading("", place.queue) as at_work:
        assert await at_work.until(1) == ["here"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "a b", "sqs://", "sqs://a/b", "kinesis://x", "arn:aws:sqs:us-east-1:1:q", "ftp://x", "q" * 81),
        *("arn:aws:sns:us-east-1:111122223333:q", "arn:aws:sqs:us-east-1:111122223333:a/b", "http://", "http://["),
        *("https://sqs.us-east-1.amazonaws.com", "https://sqs.us-east-1.amazonaws.com/1/", "http:///q"),
    ],
)
def test_wrong_names_are_refused(text: str) -> None:
    """What names no queue is a wrong setting, with what was found."""
    with pytest.raises(ConfigError, match=r"source\.queue: expected .* found"):
        parse_queue(text)


@given(st.from_regex(r"(sqs://|https?://|arn:aws:sqs:)?[ -~]{0,60}", fullmatch=True))
@settings(deadline=None, max_examples=100)
def test_any_name_is_read_or_refused(text: str) -> None:
    """No text is a defect."""
    with suppress(ConfigError):
        parse_queue(text)


async def test_a_hanging_queue_is_noticed(region: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are never answered end by themselves, are told, and are followed by others."""
    monkeypatch.setattr(sqs_queue, "_CALL_TIMEOUT", 0.5)
    monkeypatch.setattr(sqs_queue, "_POLL_MARGIN", 0.5)
    place = region(tasks=0, rate=0)
    async with reading(place.url) as at_work:
        await until(lambda: at_work.status.ready)
        await trio.to_thread.run_sync(place.control, "faults", {"hang": True})
        await until(lambda: "timeout" in at_work.missing.lower())
        await trio.to_thread.run_sync(place.control, "faults", {})
        await until(lambda: at_work.status.ready)
        await trio.sleep(1.2)  # the requests that were given up live on at the queue, and would take the message
        send(place, "after")
        assert await at_work.until(1) == ["after"]


async def test_stopping_finishes_the_deletes(region: Start) -> None:
    """What was settled just before the end is deleted before `acknowledge` returns, within the drain's time."""
    place = region(tasks=0, rate=0)
    entries = [{"Id": str(n), "MessageBody": "x"} for n in range(10)]
    for _ in range(50):
        place.sqs.send_message_batch(QueueUrl=place.queue, Entries=entries)  # type: ignore[arg-type]
    with trio.fail_after(10):
        async with reading(place.url) as at_work:
            await at_work.until(500)
            at_work.settle()
    assert depth(place) == (0, 0)
    assert at_work.acknowledged == 500


async def test_cancelling_leaves_nothing_running(region: Start) -> None:
    """A receive may be abandoned at any moment: cancelling returns at once, though a poll waits for a second."""
    place = region(tasks=0, rate=0)
    source = SqsSource(
        Settings(queue="event_stream", wait=20), Aws(endpoint_url=place.url, region="us-east-1"), Status(), Metrics()
    )
    sender, receiver = trio.open_memory_channel[Sequence[Message]](0)
    async with receiver:
        with trio.fail_after(3), trio.move_on_after(0.5):
            await source.receive(sender)
    with pytest.raises(trio.ClosedResourceError):
        sender.send_nowait([])


async def test_every_receiver_goes_on_after_backpressure(region: Start) -> None:
    """Once there is room again all of them poll: none waits for a wake-up that was meant for another."""
    place = region(tasks=0, rate=0)
    entries = [{"Id": str(n), "MessageBody": "x"} for n in range(10)]
    for _ in range(110):
        place.sqs.send_message_batch(QueueUrl=place.queue, Entries=entries)  # type: ignore[arg-type]
    async with reading(place.url, receivers=4, wait=20) as at_work:
        await at_work.until(1000)
        await until(lambda: at_work.source._polls.borrowed_tokens == 0)
        at_work.settle()
        await at_work.until(1100)
        for message in at_work.messages[1000:]:
            message.settled()
        await until(lambda: at_work.source._polls.borrowed_tokens == 4)


async def test_stopping_does_not_wait_for_a_hung_queue(region: Start) -> None:
    """A queue that answers nothing any more holds up the end for no longer than the caller's deadline."""
    place = region(tasks=0, rate=0)
    send(place, "one")
    async with reading(place.url) as at_work:
        await at_work.until(1)
        await trio.to_thread.run_sync(place.control, "faults", {"hang": True})
        at_work.settle()
        with trio.fail_after(2), trio.move_on_after(1):
            at_work.source.finish()
            await at_work.source.acknowledge()
        await trio.to_thread.run_sync(place.control, "faults", {})


async def test_an_answer_that_is_not_one_of_sqs_is_survived() -> None:
    """A proxy's page with status 200, or half an answer, is an unreachable queue, not the end of the process."""

    async def page(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        body = b"<html>please log in</html>"
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
        )

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, page, [listener])
        port = listener.socket.getsockname()[1]
        async with reading(f"http://127.0.0.1:{port}") as at_work:
            await until(lambda: at_work.status.missing()["queue"] not in ("", "starting"))
        nursery.cancel_scope.cancel()
