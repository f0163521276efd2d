"""What the bare machine does: trio sending given bytes, trio with httptools answering them, boto3 draining."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import httptools
import trio


class _Parser:
    def __init__(self) -> None:
        self.requests = 0
        self.parser = httptools.HttpRequestParser(self)

    def on_message_complete(self) -> None:
        self.requests += 1


async def serve_bytes(body: bytes, parse: bool, port: int) -> None:
    """Answer every request on every connection with the same bytes; with `parse`, by a real parser."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def connection(stream: trio.SocketStream) -> None:
        state = _Parser() if parse else None
        try:
            while data := await stream.receive_some(65536):
                if state is None:
                    await stream.send_all(answer)
                    continue
                before = state.requests
                state.parser.feed_data(data)
                for _ in range(state.requests - before):
                    await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass

    await trio.serve_tcp(connection, port, host="127.0.0.1")


def drain_with_boto3(endpoint: str, queue: str, threads: int) -> float:
    """Messages a second that boto3 alone receives in tens and deletes in tens, with so many threads, until empty."""
    client = boto3.Session().client("sqs", endpoint_url=endpoint, region_name="us-east-1")
    url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    counts = [0] * threads

    def work(index: int) -> None:
        while True:
            received: Any = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
            messages = received.get("Messages", [])
            if not messages:
                return
            entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
            client.delete_message_batch(QueueUrl=url, Entries=entries)
            counts[index] += len(messages)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begun)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", path, how, port]:
            trio.run(serve_bytes, Path(path).read_bytes(), how == "parsed", int(port))
        case ["drain", endpoint, queue, threads]:
            print(drain_with_boto3(endpoint, queue, int(threads)))
