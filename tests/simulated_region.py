"""A simulated region in a thread of its own, and unmodified boto3 clients for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import boto3
import trio
from botocore.config import Config

from css.simulator.inventory import World
from css.simulator.region import Simulation, simulate

if TYPE_CHECKING:
    from types_boto3_ecs import ECSClient
    from types_boto3_sqs import SQSClient


class Region:
    """A running region: its URL, two clients that do not retry by themselves, and its controls."""

    def __init__(self, url: str) -> None:
        self.url = url
        session = boto3.Session(
            region_name="us-east-1", aws_access_key_id="simulated", aws_secret_access_key="simulated"
        )
        config = Config(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=10)
        self.ecs: ECSClient = session.client("ecs", endpoint_url=url, config=config)
        self.sqs: SQSClient = session.client("sqs", endpoint_url=url, config=config)

    @property
    def queue(self) -> str:
        return self.sqs.get_queue_url(QueueName="event_stream")["QueueUrl"]

    def control(self, name: str, body: object = None) -> Any:
        """GET without a body, POST with one."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.url}/_simulator/{name}", data)) as answer:  # noqa: S310 - our own address
            return json.load(answer)

    def drain(self) -> list[dict[str, Any]]:
        """Receive and delete until nothing is visible; the messages' bodies in their order."""
        events = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            events += [json.loads(message["Body"]) for message in messages]
            entries = [{"Id": str(at), "ReceiptHandle": m["ReceiptHandle"]} for at, m in enumerate(messages)]
            self.sqs.delete_message_batch(QueueUrl=self.queue, Entries=entries)  # type: ignore[arg-type]
        return events

    def close(self) -> None:
        self.ecs.close()
        self.sqs.close()


@contextmanager
def running(settings: Simulation, world: World | None) -> Iterator[Region]:
    started: SimpleQueue[tuple[str, trio.lowlevel.TrioToken, trio.CancelScope]] = SimpleQueue()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(simulate, settings, world=world))
            started.put((url, trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    url, token, scope = started.get(timeout=10)
    region = Region(url)
    try:
        yield region
    finally:
        region.close()
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join(10)
